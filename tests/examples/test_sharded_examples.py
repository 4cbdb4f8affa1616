"""The examples on several devices and in several processes: the losses of one device, a kill, wrong use."""

import os
import pathlib
import re
import subprocess
import sys

import pytest

from tests.examples.test_examples import EXAMPLES, ROOT, run

PROCESSES = "train_multiprocess.py"


def ends(*arguments: str) -> str:
    """What the example says on standard error before it ends with another status than 0."""
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    environment.pop("XLA_FLAGS", None)
    command = [sys.executable, str(EXAMPLES / PROCESSES), *arguments]
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert done.returncode != 0, done.stdout
    return done.stderr


def left(folder: pathlib.Path) -> list[str]:
    """The processes of the example that still run."""
    found: list[str] = []
    for entry in pathlib.Path("/proc").glob("[0-9]*/cmdline"):
        try:
            words = entry.read_bytes().split(b"\0")
        except OSError:  # it has ended meanwhile
            continue
        if str(folder).encode() in words:
            found.append(" ".join(word.decode() for word in words))
    return found


@pytest.mark.slow
def test_two_processes_end_as_one_device_and_a_killed_run_with_the_same_bits(tmp_path):
    """Three runs: whole; one whose second process is killed at step 20, before it saves; and the rest of that one."""
    steps = ("--steps", "30", "--every", "10")
    whole = run(PROCESSES, *steps, "--out", str(tmp_path / "whole"))
    losses = re.findall(r"(?m)^(?:process [01]|one device): +loss (\d\.\d+), ([\d,]+) bytes", whole)
    assert len(losses) == 3
    assert float(losses[0][0]) == float(losses[1][0]) == pytest.approx(float(losses[2][0]), rel=1e-5)
    sizes = [int(size.replace(",", "")) for _, size in losses]
    assert sizes[0] == sizes[1] < 0.3 * sizes[2], "each of four devices holds a quarter of the moments"
    cut = tmp_path / "cut"
    said = ends(*steps, "--out", str(cut), "--kill-at", "20")
    assert "process 1 was killed by SIGKILL; the others were ended, --resume" in said
    assert "step 10: loss" in said
    assert left(cut) == []
    again = run(PROCESSES, *steps, "--out", str(cut), "--resume")
    digests = [re.search(r"in both processes: (\w+) and (\w+)", out).groups() for out in (whole, again)]
    assert len({*digests[0], *digests[1]}) == 1, "parameters and state, bit for bit"


@pytest.mark.slow
def test_wrong_use_of_processes_ends_at_once(tmp_path):
    assert f"--resume: there is no checkpoint in {tmp_path}" in ends("--resume", "--out", str(tmp_path))
    assert "--every: wanted at least 1, got 0" in ends("--every", "0", "--out", str(tmp_path))
    assert "--kill-at: wanted one of the 5 steps, got 9" in ends("--steps", "5", "--kill-at", "9")
    done = tmp_path / "done"
    (done / "checkpoints" / "20").mkdir(parents=True)
    (done / "checkpoints" / "20" / "_CHECKPOINT_METADATA").touch()
    assert "step 20 of 20 is made" in ends("--steps", "20", "--resume", "--out", str(done))
    assert "not done after 1 seconds (--timeout): all processes were ended" in ends(
        "--timeout", "1", "--out", str(tmp_path)
    )
    assert left(tmp_path) == []


@pytest.mark.slow
def test_a_mesh_of_eight_devices_ends_with_the_loss_of_one():
    out = run("train_sharded.py", "--steps", "5", "--layers", "1")
    rows = {
        name: [float(x.replace(",", "")) for x in numbers.split()]
        for name, numbers in re.findall(r"(?m)^(one device|4 x 2 devices) +(.*)$", out)
    }
    one, many = rows["one device"], rows["4 x 2 devices"]
    assert one[0] == pytest.approx(many[0], rel=1e-4)
    assert many[1] < 0.6 * one[1], "matrices are cut in two"
    assert many[2] < 0.3 * one[2]
    assert many[3] < 0.3 * one[3]
    assert float(re.search(r"further apart than (\S+) of their size", out)[1]) < 1e-4
