"""`import gradxform` does nothing but import: no backend, no flag, no warning, no heavy package, little time."""

import os
import statistics
import subprocess
import sys

import pytest

FRESH = """
import sys, time, warnings
import jax, optax
from jax._src import xla_bridge  # the only place that tells whether a backend has been started
before = {name: getattr(jax.config, name) for name in dir(jax.config) if name.startswith("jax_")}
known = set(sys.modules)
start = time.process_time()
with warnings.catch_warnings():
    warnings.simplefilter("error")
    import gradxform
seconds = time.process_time() - start
after = {name: getattr(jax.config, name) for name in dir(jax.config) if name.startswith("jax_")}
assert not xla_bridge._backends, "a backend was started"
assert before == after, "a flag was set"
rooms = {"flax", "equinox", "torch", "matplotlib", "bokeh", "chex", "hypothesis", "haliax", "click", "rich"}
heavy = rooms & (set(sys.modules) - known)
assert not heavy, f"imported {heavy}"
print(seconds)
"""


def fresh(code: str) -> str:
    # An installed package has its bytecode; where Python is told to write none, a checkout would be compiled each time.
    env = {name: value for name, value in os.environ.items() if name != "PYTHONDONTWRITEBYTECODE"}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, env=env)
    assert done.returncode == 0, done.stderr
    return done.stdout


def test_import_starts_nothing_and_is_quick():
    """At most 0.2 s of processor time on top of `import optax`: the best of six, for cores are shared."""
    seconds = [float(fresh(FRESH)) for _ in range(6)]
    assert min(seconds) <= 0.2, f"import took {statistics.median(seconds):.2f} s"


def test_the_check_would_notice_a_started_backend():
    with pytest.raises(AssertionError, match="a backend was started"):
        fresh(FRESH.replace("import gradxform\n", "import gradxform; jax.numpy.zeros(1)\n"))


def test_distributed_can_still_be_initialised_after_the_import():
    """A module-level array would start the backend, and `jax.distributed.initialize` refuses after that."""
    fresh(
        "import gradxform, jax, socket\n"
        "s = socket.socket(); s.bind(('127.0.0.1', 0)); port = s.getsockname()[1]; s.close()\n"
        "jax.distributed.initialize(f'127.0.0.1:{port}', num_processes=1, process_id=0)\n"
        "assert jax.process_count() == 1; jax.distributed.shutdown()\n"
    )
