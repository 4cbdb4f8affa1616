"""Each wrapper around every transform: the laws in one small program a pair, so that all pairs can be tried.

A pair is held to what its inner transform keeps alone in a chain: a defect of an Optax transform stays one inside of a
wrapper, and says nothing about the wrapper.
"""

import functools
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import gradxform as gx
from gradxform._core.compat import is_key
from gradxform.testing._subject import Subject, difference, form_difference, rows
from tests.laws import arguments, optax_factories

#: How far a compiled step may be from an eager one, of the largest number of a leaf.
ROUNDING = 1e-5
OURS = [name for name in arguments.NAMES if name not in arguments.PARAMS]
THEIRS = [f"optax.{name}" for name in optax_factories.names()]


@functools.cache
def make(name: str) -> Any:
    """A transform by its name: ours, or Optax's behind `optax.`."""
    theirs = name.removeprefix("optax.")
    return arguments.make(name) if theirs == name else optax_factories.make(theirs)


def _tuned(tx: Any) -> Any:
    """The first hyperparameter that is a number is moved into the state; a transform without one is wrapped bare."""
    for argument in getattr(getattr(tx, "spec", None), "arguments", {}):
        try:
            return gx.tunable(tx, argument)
        except (TypeError, ValueError):
            continue
    return None


def _every_second(count: Any) -> Any:
    return count % 2 == 0


#: What a wrapper makes of any transform; None where it does not apply.
WRAPPERS: dict[str, Callable[[Any], Any]] = {
    "guard": lambda tx: gx.guard(tx, spike=6.0, window=8),
    "accumulate": lambda tx: gx.accumulate(tx, 2),
    "tunable": _tuned,
    "average_params": lambda tx: gx.average_params(tx, 0.9),
    "cautious": lambda tx: gx.cautious(tx, downhill=True),
    "apply_when": lambda tx: gx.apply_when(tx, _every_second),
    "project": lambda tx: gx.project(tx, "*", gx.max_norm(10.0)),
    "loss_scale": lambda tx: gx.loss_scale(tx, 2.0, growth_interval=2),
    "switch_at": lambda tx: gx.switch_at(2, tx, gx.sgd(0.1, 0.9)),
    "probe": lambda tx: gx.probe(tx),
    "schedule_free": lambda tx: gx.schedule_free(tx, 0.1),
}

#: What a pair breaks, and why: (wrapper, transform) -> {law: reason}.
_SVD = "Optax takes an SVD of a sharded matrix; alone it fails before, at bfloat16 parameters with float32 gradients"
_DIFFERENCE = (
    "its update is a difference of two iterates, in which a rounding of the compiled branch is 1.1e-5"
)
_SECOND = (
    "its update has z - y in it: where a compiled z is one rounding away, that is 1.2e-5 of a step of 0.005"
)
GAPS: dict[tuple[str, str], dict[str, str]] = {
    ("accumulate", "optax.contrib.galore"): {"sharding": _SVD},
    ("accumulate", "optax.contrib.scale_by_galore"): {"sharding": _SVD},
    ("loss_scale", "optax.contrib.galore"): {"sharding": _SVD},
    ("loss_scale", "optax.contrib.scale_by_galore"): {"sharding": _SVD},
    ("loss_scale", "optax.contrib.scale_by_madgrad"): {"jit is eager": _DIFFERENCE},
    **{
        ("schedule_free", f"optax.{name}"): {"jit is eager": _SECOND}
        for name in ("lion", "lion(mu_dtype)", "rmsprop", "scale_by_rms", "contrib.muon")
    },
}


def faults(tx: Any) -> dict[str, str]:
    """The laws that a transform breaks, with what was seen: structure, dtype, sharding, jit, trace, resume."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        s = Subject(tx, seed=0)
        found: dict[str, str] = {}
        for law, check in (("structure", structure), ("running", _running), ("sharding", _sharding)):
            try:
                if law == "structure":
                    s.first_step()
                for name, fact in check(s):
                    if fact:
                        found.setdefault(name, fact)
            except Exception as problem:
                found[law] = f"{type(problem).__name__}: {(str(problem).strip().splitlines() or [''])[0]}"[
                    :200
                ]
                if law == "structure":
                    break
        return found


def structure(s: Subject) -> Any:
    """Abstract steps only, for pairs of dtypes."""
    for dtype, other in (("float32", "float32"), ("bfloat16", "float32"), ("float32", "bfloat16")):
        params = s.params(dtype)
        state = s.init(params)
        updates, new = s.abstract(s.grads(params, 1.0, other), state, params)
        yield "structure", form_difference(new, state, "the new state")
        empty = [path for path, x in rows(state) if np.size(x) == 0]
        yield "structure", f"empty arrays, which Orbax does not write: {empty}" if empty else None
        yield "dtype", form_difference(updates, params, "the update", weak=False)


def _running(s: Subject) -> Any:
    """Compiled steps against eager ones, one trace, and a run that was stopped and written to bytes."""
    params = s.params()
    grads = [s.grads(params, start) for start in (0.5, -1.0, 0.25, 0.75)]
    before = s.traces
    compiled, state = s.run(grads, params)
    yield "one trace", None if s.traces == before + 1 else f"{s.traces - before} traces"
    eager, slow = list[Any](), s.init(params)
    for g in grads[:3]:
        u, slow = s.update(g, slow, params)
        eager.append(u)
    yield "jit is eager", difference(compiled[:3], eager, "the update", ROUNDING, 1e-9)
    _, half = s.run(grads[:2], params)
    leaves, treedef = jax.tree.flatten(half)
    rest, last = s.run(grads[2:], params, treedef.unflatten(map(_through_bytes, leaves)))
    yield "resume", difference((rest, last), (compiled[2:], state), "the run that was stopped")


def _through_bytes(x: Any) -> Any:
    if is_key(x):
        return jax.random.wrap_key_data(_through_bytes(jax.random.key_data(x)), impl=jax.random.key_impl(x))
    host = np.asarray(x)
    return jnp.asarray(np.frombuffer(host.tobytes(), host.dtype).reshape(host.shape))


def _sharding(s: Subject) -> Any:
    """On a mesh with explicit axes, where the type says how an array is cut: the update and the state keep theirs."""
    mesh = jax.make_mesh((8,), ("x",), axis_types=(jax.sharding.AxisType.Explicit,))
    sharding = jax.sharding.NamedSharding(mesh, jax.P("x"))
    with jax.set_mesh(mesh):
        params = {
            "w": jax.device_put(jnp.ones((8, 4)), sharding),
            "b": jax.device_put(jnp.ones(16), sharding),
        }
        state = s.init(params)
        updates, new = s.abstract(jax.tree.map(lambda p: p * 0.5, params), state, params)
        for (path, u), (_, p) in zip(rows(updates), rows(params), strict=True):
            cut = _cut(u), _cut(p)
            yield "sharding", None if cut[0] == cut[1] else f"the update {path} has {cut[0]}, wanted {cut[1]}"
        for (path, x), (_, before) in zip(rows(new), rows(state), strict=True):
            cut = _cut(x), _cut(before)
            yield "sharding", None if cut[0] == cut[1] else f"the state's {path} has {cut[0]}, had {cut[1]}"


def _cut(x: Any) -> Any:
    """Over which axes an array, or the shape of one, is cut; a constant knows of no mesh, and is cut over none."""
    sharding = x.sharding if isinstance(x, jax.ShapeDtypeStruct) else jax.typeof(x).sharding
    spec = getattr(sharding, "spec", None) or ()
    return tuple(spec) if any(spec) else ()


@functools.cache
def alone(name: str) -> frozenset[str]:
    """What the transform breaks without a wrapper: in a chain of one."""
    return frozenset(faults(gx.chain(make(name))))


def new_faults(wrapper: str, name: str) -> dict[str, str] | None:
    """What a pair breaks that its inner transform keeps; None where the wrapper does not apply."""
    tx = WRAPPERS[wrapper](make(name))
    if tx is None:
        return None
    return {law: fact for law, fact in faults(tx).items() if law not in alone(name)}
