"""Two processes with one mesh: layouts stay, and numbers are those of one process."""

import os
import pathlib
import socket
import subprocess
import sys

import jax
import numpy as np
import pytest

from tests.sharding import processes

ROOT = pathlib.Path(__file__).parents[2]


@pytest.mark.slow
def test_two_processes_make_the_numbers_of_one(tmp_path):
    with socket.socket() as at:
        at.bind(("127.0.0.1", 0))
        port = str(at.getsockname()[1])
    paths = [tmp_path / f"{i}.npz" for i in range(2)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    started = [
        subprocess.Popen([sys.executable, processes.__file__, str(i), port, str(path)], env=environment)
        for i, path in enumerate(paths)
    ]
    try:
        wanted = processes.made(processes.mesh_of(jax.devices()[:4]))
        assert [process.wait(timeout=120) for process in started] == [0, 0]
    finally:
        for process in started:
            process.kill()
            process.wait()
    first, second = (np.load(path) for path in paths)
    assert set(first) == set(second) == set(wanted)
    for name, x in wanted.items():
        np.testing.assert_array_equal(first[name], second[name], err_msg=name)
        if "guarded" in name:  # its norm is a sum over the devices
            np.testing.assert_allclose(first[name], x, rtol=1e-5, atol=1e-7, err_msg=name)
        else:
            np.testing.assert_array_equal(first[name], x, err_msg=name)
