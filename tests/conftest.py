"""Settings for all tests, made before JAX starts its backend: 8 devices, no silent promotion, a quick compiler.

Half of the suite's time is XLA's. The CPU emitters that jax 0.10 has kept from before compile the same programs in less
than half the time of its new ones, so most tests run on the old ones. And each program goes to LLVM in one piece: cut
into pieces for several threads, as JAX does, a step takes half as much processor time again, for the same machine code.
`GRADXFORM_COMPILER=default` leaves JAX as users have it; so do the examples, the runs on the lowest versions and on
newer JAX, which has no old ones.
"""

import gc
import os
from collections.abc import Iterator
from importlib.metadata import version

import jax
import pytest

_release = tuple(map(int, version("jaxlib").split(".")[:2]))
OLD_EMITTERS = "--xla_cpu_use_fusion_emitters=false"  # a release that does not know the flag aborts
ONE_PIECE = "--xla_cpu_parallel_codegen_split_count=1"
if os.environ.get("GRADXFORM_COMPILER") != "default" and _release == (0, 10):
    os.environ["XLA_FLAGS"] = f"{os.environ.get('XLA_FLAGS', '')} {OLD_EMITTERS} {ONE_PIECE}".strip()

jax.config.update("jax_num_cpu_devices", 8)
jax.config.update("jax_numpy_rank_promotion", "raise")
jax.config.update("jax_numpy_dtype_promotion", "strict")


@pytest.fixture
def x64() -> Iterator[None]:
    """Double precision for one test."""
    with jax.enable_x64(True):
        yield


@pytest.fixture(scope="session")
def as_users() -> dict[str, bool] | None:
    """Options of `jax.jit` and `compile` for what is said of the compiled program itself: JAX as users have it."""
    quick = OLD_EMITTERS in os.environ.get("XLA_FLAGS", "")
    return {"xla_cpu_use_fusion_emitters": True} if quick else None


@pytest.fixture
def warm(monkeypatch: pytest.MonkeyPatch) -> None:
    """For benchmarks that forget what is compiled, to time a first call: every test behind them would compile anew."""
    monkeypatch.setattr(jax, "clear_caches", lambda: None)


def pytest_collection_finish() -> None:
    """What is there before the first test stays: the garbage collector need not look at it again and again."""
    gc.collect()
    gc.freeze()
    gc.set_threshold(50_000, 20, 50)
