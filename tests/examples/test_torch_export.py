"""`examples/torch_export.py`: what it wrote, and the script itself where GRADXFORM_TORCH names a Python with torch."""

import json
import os
import subprocess
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

import gradxform as gx
from gradxform.interop import from_torch, to_torch
from gradxform.interop.torch_run import read
from gradxform.interop.torch_schedules import schedule

ROOT = Path(__file__).parents[2]
PYTHON = os.environ.get("GRADXFORM_TORCH")
with_torch = pytest.mark.skipif(PYTHON is None, reason="GRADXFORM_TORCH names no interpreter with torch")
NAMES: dict[str, Any] = {
    "renamed": {"0.*": "in.*", "1.*": "norm.*", "2.*": "out.*"},
    "layout": {"*/weight": (1, 0)},
}


def like(dtype: Any = jnp.bfloat16) -> dict[str, Any]:
    return {
        "in": {"weight": jnp.zeros((3, 2), dtype), "bias": jnp.zeros(2, dtype)},
        "norm": {"weight": jnp.zeros(2, dtype), "bias": jnp.zeros(2, dtype)},
        "out": {"weight": jnp.zeros((2, 2), dtype), "bias": jnp.zeros(2, dtype)},
    }


@pytest.mark.parametrize("end", ["npz", "safetensors"])
def test_the_file_that_it_wrote(end: str) -> None:
    """bfloat16, groups, a scheduler of schedulers with a milestone that counts twice, buffers."""
    found = from_torch(ROOT / "tests" / "golden" / f"torch_export.{end}", None, like(), **NAMES)
    assert {x.dtype for x in jax.tree.leaves(found.params)} == {jnp.dtype("bfloat16")}
    assert all(np.any(np.asarray(x, np.float32)) for x in jax.tree.leaves(found.params))
    assert "1.running_mean" in found.notes[0]
    text = repr(found.transform)
    assert "join_schedules" in text
    assert text.count("adamw") == 2
    assert "weight_decay=0.1" in text
    run = read(ROOT / "tests" / "golden" / f"torch_export.{end}", "test")
    assert run.scheduler is not None
    rate = schedule(run.scheduler, 1.0, "test")
    # A quarter rising to the whole in four steps; then halved after two more, and twice after five.
    wanted = [0.25, 0.4375, 0.625, 0.8125, 1, 1, 0.5, 0.5, 0.5, 0.125, 0.125]
    assert np.allclose([float(rate(step)) for step in range(11)], wanted)
    assert [group["lr"] for group in run.groups] == [0.005, 0.01]
    counts = {int(x) for x in jax.tree.leaves(found.state) if jnp.issubdtype(x.dtype, jnp.integer)}
    assert counts == {7}


def script(*arguments: str) -> Any:
    return subprocess.run(
        [str(PYTHON), str(ROOT / "examples" / "torch_export.py"), *arguments], capture_output=True, text=True
    )


TRAIN = """
import sys, torch
def make(dtype):
    torch.manual_seed(3)
    net = torch.nn.Sequential(torch.nn.Linear(3, 2), torch.nn.BatchNorm1d(2), torch.nn.Linear(2, 2)).to(dtype)
    optimizer = torch.optim.NAdam(net.parameters(), lr=0.01)
    return net, optimizer, torch.optim.lr_scheduler.StepLR(optimizer, 4, 0.5)
def train(net, optimizer, scheduler, first, last):
    for i in range(first, last):
        torch.manual_seed(i)
        optimizer.zero_grad()
        ((net(torch.randn(8, 3, dtype=net[0].weight.dtype)) - 1) ** 2).mean().backward()
        optimizer.step()
        scheduler.step()
"""


def torch_runs(code: str, folder: Path) -> str:
    done = subprocess.run([str(PYTHON), "-c", TRAIN + code], capture_output=True, text=True, cwd=folder)
    assert done.returncode == 0, done.stderr[-2000:]
    return done.stdout


@with_torch
@pytest.mark.parametrize("dtype", ["float32", "bfloat16"])
def test_a_checkpoint_goes_out_and_comes_back_whole(dtype: str, tmp_path: Path) -> None:
    """Nothing is trained in between: torch goes on as if nothing had been, from the file that came back."""
    save = f"""
net, optimizer, scheduler = make(torch.{dtype}); train(net, optimizer, scheduler, 0, 6)
torch.save({{"model_state_dict": net.state_dict(), "optimizer_state_dict": optimizer.state_dict(),
            "lr_scheduler": scheduler.state_dict(), "epoch": 6}}, "run.pt")
import json; json.dump([n for n, _ in net.named_parameters()], open("names.json", "w"))
"""
    torch_runs(save, tmp_path)
    run, npz, moved, back = (str(tmp_path / name) for name in ("run.pt", "run.npz", "moved.npz", "back.pt"))
    unnamed = script(run, npz, "--optimizer", "NAdam")
    assert unnamed.returncode == 1
    assert "which of 9 arrays the 6 parameters are has to be said" in unnamed.stderr
    done = script(run, npz, "--optimizer", "NAdam", "--names", str(tmp_path / "names.json"))
    assert done.returncode == 0, done.stderr
    found = from_torch(npz, None, like(jnp.dtype(dtype)), **NAMES)
    to_torch(found.transform, found.state, found.params, npz, **NAMES).save(moved)
    done = script(moved, back, "--into", run)
    assert done.returncode == 0, done.stderr
    torch_runs(
        f"""
whole = torch.load("back.pt", weights_only=True)
assert whole["epoch"] == 6
ends = []
for name in ("run.pt", "back.pt"):
    net, optimizer, scheduler = make(torch.{dtype})
    states = torch.load(name, weights_only=True)
    net.load_state_dict(states["model_state_dict"])
    optimizer.load_state_dict(states["optimizer_state_dict"])
    scheduler.load_state_dict(states["lr_scheduler"])
    train(net, optimizer, scheduler, 6, 20)
    ends.append((net.state_dict(), scheduler.get_last_lr()))
assert ends[0][1] == ends[1][1], ends
for key, x in ends[0][0].items():
    assert torch.equal(x, ends[1][0][key]), key
""",
        tmp_path,
    )


@with_torch
def test_a_weight_with_two_names_comes_back_under_both(tmp_path: Path) -> None:
    """The old value under the second name would undo the new one of the first."""
    torch_runs(
        """
torch.manual_seed(0)
net = torch.nn.ModuleDict({"emb": torch.nn.Embedding(5, 3), "head": torch.nn.Linear(3, 5, bias=False)})
net["head"].weight = net["emb"].weight
optimizer = torch.optim.SGD(net.parameters(), 0.1)
net["head"](net["emb"](torch.arange(5))).square().mean().backward(); optimizer.step()
torch.save({"model": net.state_dict(), "optimizer": optimizer.state_dict()}, "run.pt")
import json; json.dump(["emb.weight"], open("names.json", "w"))
""",
        tmp_path,
    )
    run, npz, moved, back = (str(tmp_path / name) for name in ("run.pt", "run.npz", "moved.npz", "back.pt"))
    done = script(run, npz, "--optimizer", "SGD", "--names", str(tmp_path / "names.json"))
    assert done.returncode == 0, done.stderr
    found = from_torch(npz, None, {"emb": {"weight": jnp.zeros((5, 3))}})
    assert not found.notes
    changed = jax.tree.map(lambda x: x + 1, found.params)
    to_torch(found.transform, found.state, changed, npz).save(moved)
    done = script(moved, back, "--into", run)
    assert done.returncode == 0, done.stderr
    torch_runs(
        """
old, new = (torch.load(name, weights_only=True)["model"] for name in ("run.pt", "back.pt"))
assert list(new) == ["emb.weight", "head.weight"]
for name in new:
    assert torch.equal(new[name], old[name] + 1)
""",
        tmp_path,
    )


@with_torch
def test_what_the_script_cannot_read_is_one_line(tmp_path: Path) -> None:
    torch_runs(
        """
net, optimizer, _ = make(torch.float32); train(net, optimizer, _, 0, 2)
torch.save({"net": net.state_dict(), "optimizer": optimizer.state_dict()}, "run.pt")
""",
        tmp_path,
    )
    run, npz = str(tmp_path / "run.pt"), str(tmp_path / "run.npz")
    (tmp_path / "names.json").write_text(
        json.dumps(["2.weight", "0.bias", "1.weight", "1.bias", "0.weight", "2.bias"])
    )
    for arguments, message in (
        ((), "a checkpoint does not say of which class"),
        (
            ("--optimizer", "NAdam"),
            "no model at model, model_state_dict, state_dict; the checkpoint has net, optimizer",
        ),
        (
            ("--optimizer", "NAdam", "--model-key", "net", "--names", str(tmp_path / "names.json")),
            "wrong order",
        ),
    ):
        done = script(run, npz, *arguments)
        assert done.returncode == 1
        assert message in done.stderr
        assert "Traceback" not in done.stderr


def test_the_script_needs_nothing_of_ours() -> None:
    text = (ROOT / "examples" / "torch_export.py").read_text("utf-8")
    assert "import gradxform" not in text
    assert f'"format": {gx.interop.torch_run.FORMAT}' in text
    compile(text, "torch_export.py", "exec")
