"""Outside of `jit`: what is called again and again is compiled as a whole.

What a step costs there is mostly Python: looking at trees, a call for each leaf. From its third call on arrays of
some shapes, a step of rules over not too many leaves is one compiled function. A step that calls functions which are
not ours, schedules and masks, is not: they may look at more than their arguments, and are called at every step.
"""

from collections.abc import Callable, Hashable
from typing import Any

import jax

from . import compat, observe

#: A step of more leaves is not compiled as a whole: that takes about 8 ms a leaf, and more than that from here on.
_MOST = 256
#: At which call with some shapes it pays: most steps outside of `jit` are tried once or twice.
_CALL = 3

#: How many sets of shapes are counted.
_COUNTED = 1000


class Compiled:
    """A function of trees, and its compiled form once it has been called often enough."""

    __slots__ = ("_calls", "_failed", "_fn", "_jitted")

    def __init__(self, fn: Callable[..., Any]) -> None:
        self._fn, self._jitted = fn, jax.jit(fn)
        self._calls: dict[Hashable, int] = {}
        self._failed: set[Hashable] = set()

    def __call__(self, *trees: Any) -> Any:
        if observe.watching():
            return self._fn(*trees)
        leaves, treedef = jax.tree.flatten(trees)
        if len(jax.tree.leaves(trees[0])) > _MOST or not _plain(leaves):
            return self._fn(*trees)
        key = treedef, tuple(getattr(x, "shape", None) for x in leaves)
        if key in self._failed:
            return self._fn(*trees)
        calls = self._calls.get(key, 0) + 1
        if calls < _CALL:
            if len(self._calls) > _COUNTED:
                self._calls.clear()
            self._calls[key] = calls
            return self._fn(*trees)
        try:
            return self._jitted(*trees)
        except Exception:
            got = self._fn(*trees)  # an error of the step itself shows again, with the arrays in its message
            self._failed.add(key)
            return got


def _plain(leaves: list[Any]) -> bool:
    """Whether these are arrays of JAX on one device, and not traced. What is not JAX's, `jit` would convert."""
    single = jax.sharding.SingleDeviceSharding
    for x in leaves:
        if not isinstance(x, jax.Array) or isinstance(x, compat.Tracer) or compat.is_key(x):
            return False
        if x.committed and (type(x.sharding) is not single or x.sharding.memory_kind == compat.HOST):
            return False
    return bool(leaves)
