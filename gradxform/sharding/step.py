"""`make_step`: a compiled training step in which every output has a sharding.

`jax.jit` matches donated arguments to outputs by shape, and by memory only where it knows the memory of every output.
One output without a sharding, the loss say, and a state in the host's memory is written over parameters on the device.
And an output without a sharding lies where the compiler finds it convenient, so that the next step is another program.
"""

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Any

import jax
import jax.numpy as jnp

from .._core import compat
from .._core.errors import check_flag, describe_array, leaf, say, short
from .._core.placement import mesh_of
from .._core.tree import difference, is_absent, view

_WHO = "gx.sharding.make_step"
_ELSEWHERE = "put it there: jax.device_put(state, gx.sharding.state_shardings(tx, params)), or gx.sharding.init_sharded"


class _Held:
    """One of the two trees that go round: its places and what each of them shall be."""

    def __init__(self, name: str, tree: Any, mesh: Any, else_where: Any) -> None:
        self.name, self.rows = name, view(tree)
        self.wanted = [
            None if is_absent(x) else _wanted(name, path, x, mesh, else_where)
            for path, x in zip(self.rows.paths, self.rows.places, strict=True)
        ]
        self.forms = [
            (jnp.shape(x), jnp.result_type(x)) if not is_absent(x) else None for x in self.rows.places
        ]
        self.rows = self.rows._replace(places=[])  # the arrays will be donated
        self.treedef = jax.tree.structure(tree)
        self.known = jax.tree.leaves(self.shardings)

    @property
    def shardings(self) -> Any:
        """The shardings as the tree."""
        return self.rows.treedef.unflatten(self.wanted)

    def placed(self, tree: Any) -> Any:
        """An argument of the step: what lies nowhere yet is put where it belongs, what lies elsewhere is refused."""
        leaves, treedef = jax.tree.flatten(tree)
        if treedef == self.treedef and all(
            getattr(x, "sharding", None) is known for x, known in zip(leaves, self.known, strict=True)
        ):  # what the step has returned
            return tree
        rows = self._same(tree, "was given")
        return rows.treedef.unflatten(
            [
                x if wanted is None or getattr(x, "sharding", None) is wanted else self._put(path, x, wanted)
                for path, x, wanted in zip(rows.paths, rows.places, self.wanted, strict=True)
            ]
        )

    def _put(self, path: str, x: Any, wanted: Any) -> Any:
        sharding: Any = getattr(x, "sharding", None)
        if sharding == wanted:
            return x
        if isinstance(x, jax.ShapeDtypeStruct):
            if sharding is None:
                return jax.ShapeDtypeStruct(x.shape, x.dtype, sharding=wanted)
        elif not isinstance(x, jax.Array) or not x.committed or sharding.is_equivalent_to(wanted, x.ndim):
            return jax.device_put(x, wanted)
        fact = f"{_WHO}: {leaf(path)} of the {self.name} lies {_text(sharding)}, wanted {_text(wanted)}"
        raise ValueError(say(fact, _ELSEWHERE if self.name == "state" else "jax.device_put it there"))

    def returned(self, tree: Any) -> Any:
        """An output of the step, held against what went in. While it is traced."""
        rows = self._same(tree, "was returned by the step")
        for path, x, form, wanted in zip(rows.paths, rows.places, self.forms, self.wanted, strict=True):
            if form is None or wanted is None:
                continue
            if (jnp.shape(x), jnp.result_type(x)) != form:
                was = describe_array(jax.ShapeDtypeStruct(*form))
                fact = f"{_WHO}: {leaf(path)} of the {self.name} was {was}, and the step returns {describe_array(x)}"
                raise ValueError(say(fact, "each step would be another program: keep shapes and dtypes"))
            host = isinstance(x, jax.Array) and compat.in_host(x)
            if host != (wanted.memory_kind == compat.HOST):
                kinds = (compat.HOST, "device") if host else ("device", compat.HOST)
                fact = (
                    f"{_WHO}: the step returns {leaf(path)} of the {self.name} in memory {kinds[0]!r}, "
                    f"and what was given to make_step lies in {kinds[1]!r}"
                )
                raise ValueError(say(fact, _ELSEWHERE))
        return rows.treedef.unflatten(rows.places)

    def arrived(self, tree: Any) -> None:
        """Holds the memory of what a newly compiled step has returned against what was wanted."""
        rows = view(tree)
        for path, x, wanted in zip(rows.paths, rows.places, self.wanted, strict=True):
            kind = None if wanted is None else x.sharding.memory_kind
            if wanted is not None and kind != wanted.memory_kind:
                fact = f"{_WHO}: {leaf(path)} of the new {self.name} lies in memory {kind!r}"
                raise RuntimeError(
                    say(f"{fact}, wanted {wanted.memory_kind!r}", "the compiler for this device has moved it")
                )

    def _same(self, tree: Any, came: str) -> Any:
        rows = view(tree)
        problem = difference(rows, self.rows, f"what {came}", f"the {self.name} of make_step")
        if problem is not None:
            order = "the step takes (params, state, ...) and returns (params, state, ...)"
            raise ValueError(say(f"{_WHO}: the {self.name}: {problem}", order))
        return rows


def _wanted(name: str, path: str, x: Any, mesh: Any, else_where: Any) -> Any:
    """Where a leaf shall lie in every step: where it lies, or on every device if that is nowhere in particular."""
    sharding = getattr(x, "sharding", None)
    if isinstance(sharding, jax.NamedSharding):
        return sharding
    host = getattr(sharding, "memory_kind", None) == compat.HOST
    everywhere = else_where.with_memory_kind(compat.HOST) if host else else_where
    if mesh is None:
        free = sharding is None or sharding.memory_kind is None
        return everywhere if free else sharding
    alone = mesh.size == 1 and sharding is not None and sharding.device_set == everywhere.device_set
    # What is made in the host's memory is committed to its device, and no choice of anybody.
    chosen = isinstance(x, jax.Array) and x.committed and not (host and x.size == 1)
    if sharding is None or alone or not chosen:
        return everywhere
    fact = f"{_WHO}: {leaf(path)} of the {name} lies {_text(sharding)}, and others on {_mesh_text(mesh)}"
    raise ValueError(say(fact, _ELSEWHERE if name == "state" else "jax.device_put it on the mesh"))


def _text(sharding: Any) -> str:
    if isinstance(sharding, jax.NamedSharding):
        where = f"as {sharding.spec} on {_mesh_text(sharding.mesh)}"
    else:
        where = (
            f"on {', '.join(sorted(map(str, sharding.device_set)))}" if sharding is not None else "nowhere"
        )
    kind = getattr(sharding, "memory_kind", None)
    return where if kind in (None, "device") else f"{where} in memory {kind!r}"


def _mesh_text(mesh: Any) -> str:
    sizes = ", ".join(f"{name}={size}" for name, size in mesh.shape.items())
    return f"the mesh ({sizes})"


class Step:
    """A compiled training step, made by `make_step`: call it, or `lower(...).compile()` it ahead of time."""

    def __init__(
        self, step: Callable[..., Any], held: Sequence[_Held], donate: bool, others: Any, mesh: Any
    ) -> None:
        self._step, self._held, self._fresh, self._mesh = step, tuple(held), False, mesh
        shardings = tuple(tree.shardings for tree in held)
        self._jitted = jax.jit(
            self._run,
            in_shardings=(*shardings, None, None),
            out_shardings=(*shardings, others),
            donate_argnums=(0, 1) if donate else (),
        )

    def __call__(self, params: Any, state: Any, *rest: Any, **named: Any) -> tuple[Any, ...]:
        """One step."""
        return self.checked(self._jitted(*self.placed(params, state), rest, named))

    def lower(self, params: Any, state: Any, *rest: Any, **named: Any) -> "Ahead":
        """The step for these arguments or shapes, to look at (`as_text()`) and to `compile()`."""
        return Ahead(self, self._jitted.lower(*self.placed(params, state), rest, named))

    def _known(self) -> Any:
        """Around the step: the mesh, if none is set there."""
        if self._mesh is None or compat.current_mesh() is not None:
            return nullcontext()
        return compat.on_mesh(self._mesh.abstract_mesh)

    def _run(self, params: Any, state: Any, rest: tuple[Any, ...], named: dict[str, Any]) -> Any:
        self._fresh = True  # this runs while a new program is traced
        with self._known():  # what has to know the mesh, such as ZeRO, need not be told again
            made = self._step(params, state, *rest, **named)
        if not isinstance(made, tuple) or hasattr(made, "_fields") or len(made) < 2:
            fact = f"{_WHO}: the step returned {short(made) if not isinstance(made, tuple) else 'one tree'}"
            raise TypeError(say(f"{fact}, wanted a tuple (params, state, ...)"))
        trees = [held.returned(tree) for held, tree in zip(self._held, made, strict=False)]
        return (*trees, made[2:])

    def placed(self, params: Any, state: Any) -> list[Any]:
        """Parameters and state where they belong."""
        return [held.placed(tree) for held, tree in zip(self._held, (params, state), strict=True)]

    def checked(self, made: Any) -> tuple[Any, ...]:
        """What the compiled program has returned, as the step returns it."""
        if self._fresh:
            self._fresh = False
            for held, tree in zip(self._held, made, strict=False):
                held.arrived(tree)
        return (*made[:2], *made[2])


class Ahead:
    """A step on its way to being compiled, or compiled: JAX's `Lowered` or `Compiled`, called as the step is."""

    def __init__(self, step: Step, stage: Any) -> None:
        self._of, self._stage = step, stage

    def compile(self, *args: Any, **options: Any) -> "Ahead":
        """The compiled step."""
        return Ahead(self._of, self._stage.compile(*args, **options))

    def __call__(self, params: Any, state: Any, *rest: Any, **named: Any) -> tuple[Any, ...]:
        """One step, if it has been compiled."""
        if not callable(self._stage):
            raise TypeError(
                say(f"{_WHO}: this step has been lowered and not compiled", "call .compile() first")
            )
        return self._of.checked(self._stage(*self._of.placed(params, state), rest, named))

    def __getattr__(self, name: str) -> Any:
        return getattr(self._stage, name)


def make_step(
    step: Callable[..., Any],
    params: Any,
    state: Any,
    *,
    donate: bool = True,
    others: Any = None,
    mesh: Any = None,
) -> Step:
    """Compiles a training step so that parameters and state lie after it where they lay before, in memory too.

    It is `jax.jit` with a sharding for every output. Without it, what a trainer hands round may change its layout after
    one step (a second program is compiled, or parameters that were on every device are cut), and a state in the host's
    memory (`gx.sharding.offload`) that is donated may be written over an array of the device, which fails.

    Args:
        step: `step(params, state, *rest) -> (params, state, *others)`, keywords allowed; any function of JAX.
        params, state: where they lie is where they shall lie after every step. Arrays, or `jax.ShapeDtypeStruct`s with
            shardings. What lies nowhere in particular (a count that `tx.init` has made) goes to every device.
        donate: whether the old parameters and the old state give their memory to the new ones.
        others: the shardings of what the step returns beside these, a prefix of the tuple; None: on every device.
        mesh: the mesh, where neither `params` nor `state` says it; None takes that of `jax.set_mesh`, or one device.

    Returns:
        A function like `step`, compiled once for each form of `rest`, with `lower(...)` as `jax.jit` has it. A leaf of
        a given state that lies elsewhere, or an output of another structure, dtype or memory, is an error that names
        it; memory kinds are looked at after each compilation.

    Raises:
        ValueError: if parameters and state lie on different meshes, or one on a mesh and the other on one device.

    Example:
        >>> import jax
        >>> import jax.numpy as jnp
        >>> import gradxform as gx
        >>> mesh = jax.make_mesh((1,), ("data",))
        >>> params = jax.device_put(jnp.ones((8, 4)), jax.NamedSharding(mesh, jax.P("data")))
        >>> tx = gx.sharding.offload(gx.adamw(0.1), "*/nu")
        >>> def train(params, state, x):
        ...     loss, grads = jax.value_and_grad(lambda p: jnp.mean((p * x) ** 2))(params)
        ...     updates, state = tx.update(grads, state, params)
        ...     return gx.apply_updates(params, updates), state, loss
        >>> state = gx.sharding.init_sharded(tx, params)
        >>> step = gx.sharding.make_step(train, params, state)
        >>> params, state, loss = step(params, state, 2.0)
        >>> state[0].nu.sharding.memory_kind, float(loss)
        ('pinned_host', 4.0)
    """
    if not callable(step):
        raise TypeError(say(f"{_WHO}(step={short(step)}): wanted a function", "the step comes first"))
    check_flag("sharding.make_step", "donate", donate)
    found = _mesh(params, state, mesh)
    everywhere = _everywhere(found, params)
    held = [_Held(name, tree, found, everywhere) for name, tree in (("parameters", params), ("state", state))]
    return Step(step, held, donate, everywhere if others is None else others, found)


def _mesh(params: Any, state: Any, mesh: Any) -> Any:
    """The mesh there is, or None on one device."""
    leaves = jax.tree.leaves((params, state))
    on_mesh = any(isinstance(getattr(x, "sharding", None), jax.NamedSharding) for x in leaves)
    if mesh is None and not on_mesh and compat.current_mesh() is None:
        return None
    return mesh_of([params, state], mesh, f"{_WHO}(step, params, state)")


def _everywhere(mesh: Any, params: Any) -> Any:
    """What has a copy on every device; without a mesh, on the device of the parameters."""
    if mesh is not None:
        return jax.NamedSharding(mesh, jax.P(), memory_kind="device")
    known = [getattr(x, "sharding", None) for x in jax.tree.leaves(params)]
    sharding = next((s for s in known if s is not None), jnp.zeros([]).sharding)
    return sharding.with_memory_kind("device")
