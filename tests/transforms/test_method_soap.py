"""SOAP: the reference from the paper's algorithm, its rows of the grid, its options, and what is true of it alone."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.sharding import AxisType, NamedSharding, PartitionSpec as P
from optax.contrib import MuonDimensionNumbers as Dims

import gradxform as gx
from tests import reference as ref
from tests.reference.scalars import Array, Hyper, bias_correction, hyper

from .forced import ours, theirs
from .grid_cases import BETA1, BETA2, FALL, GROW, MATRICES, WARM, Case
from .test_method_muon import matrices

#: Two matrices of 3 x 2, one of 4 x 6: no side is longer than two gradients fill, what a third one has no part in is
#: turned by rounding. The row of `w` that is almost zero is rounding in float32.
DIMS = {"w": None, "b": None, "s": None, "c": Dims(1, 2), "k": Dims((0, 1), (2, 3))}


def signed(basis: Array, along: Array) -> Array:
    """Signs are free; ours look to a given side."""
    return basis * np.where(np.sum(along * basis, 0) < 0, -1, 1)


def first(columns: Array, n: int) -> Array:
    """An orthonormal basis that begins with these columns, filled up by Householder's reflections."""
    full = np.linalg.qr(columns, mode="complete")[0]
    return signed(full, np.broadcast_to(1 / np.sqrt(1 + np.arange(n))[:, None], (n, n)))


def iterated(gram: Array, basis: Array) -> tuple[Array, Array]:
    """The paper's algorithm 4, with columns sorted by estimated eigenvalues as in the authors' code."""
    order = np.argsort(-np.diag(basis.T @ gram @ basis), kind="stable")
    return order, signed(np.linalg.qr(gram @ basis[:, order])[0], basis[:, order])


@dataclass(frozen=True)
class Soap:
    """The update of `scale_by_soap` for a dictionary of arrays; None among the dimension numbers is Adam."""

    dims: Mapping[str, Dims | None]
    b1: Hyper = 0.95
    b2: Hyper = 0.95
    eps: Hyper = 1e-8
    shampoo_beta: Hyper = 0.95
    precondition_frequency: int = 10
    max_precondition_dim: int = 10_000
    kl: bool = False
    skip_first: bool = False

    def update(self, grads: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        slots = [name for name in state if name != "count"]
        new: dict[str, Any] = {"count": state["count"] + 1, **{name: {} for name in slots}}
        updates: dict[str, Any] = {}
        for leaf, g in grads.items():
            old = {name: state[name][leaf] for name in slots}
            updates[leaf], made = self._leaf(g, old, self.dims[leaf], state["count"])
            for name in slots:
                new[name][leaf] = made[name]
        return new, updates

    def _leaf(self, g: Array, old: dict[str, Array], dims: Dims | None, count: int) -> tuple[Array, Any]:
        sizes = () if dims is None else matrices(g, dims)[0][0].shape
        if not any(n <= self.max_precondition_dim for n in sizes):
            if self.skip_first and count == 0:
                return np.zeros_like(g), old
            u, m, v = self._adam(g, old["mu"], old["nu"], count, count + (not self.skip_first))
            return u, {**old, "mu": m, "nu": v}
        parts = {name: matrices(old[name], dims)[0] for name in ("mu", "nu")}  # pyright: ignore[reportArgumentType]
        gs, back = matrices(g, dims)  # pyright: ignore[reportArgumentType]
        sides = [s for s, n in zip(("left", "right"), sizes, strict=True) if n <= self.max_precondition_dim]
        kept = [name for name in old if name.rpartition("_")[2] in sides]
        shapes = {name: old[name].shape for name in kept}
        for name in kept:
            rank = 1 if name.startswith("values") else 2
            parts[name] = list(old[name].reshape(-1, *shapes[name][len(shapes[name]) - rank :]))
        us, made = [], []
        for i, one in enumerate(gs):
            u, slots = self._matrix(one, {name: x[i] for name, x in parts.items()}, count)
            us.append(u)
            made.append(slots)
        new = {name: np.stack([x[name] for x in made]).reshape(shapes[name]) for name in kept}
        return back(us), {**old, **new, **{n: back([x[n] for x in made]) for n in ("mu", "nu")}}

    def _adam(self, g: Array, m: Array, v: Array, count: int, t: int) -> tuple[Array, Array, Array]:
        b1, b2, eps = (hyper(h, count) for h in (self.b1, self.b2, self.eps))
        m, v = b1 * m + (1 - b1) * g, b2 * v + (1 - b2) * g**2
        root = np.sqrt(v / bias_correction(b2, t)) + eps
        return np.divide(m / bias_correction(b1, t), root, out=np.zeros_like(g), where=root > 0), m, v

    def _matrix(self, G: Array, s: dict[str, Array], count: int) -> tuple[Array, dict[str, Array]]:
        beta = hyper(self.shampoo_beta, count)
        left, right = (
            s.get(f"basis_{side}", np.eye(n)) for side, n in zip(("left", "right"), G.shape, strict=True)
        )
        rows, columns = G.shape
        inside = G if count == 0 else left.T @ G @ right
        N, m, v = self._adam(inside, s["mu"], s["nu"], count, max(count, 1))
        u = left @ N @ right.T
        new = dict(s)
        over_left, over_right = np.eye(rows), np.eye(columns)
        if self.kl:
            own = {side: s.get(f"values_{side}") for side in ("left", "right")}
            small = {
                side: np.ones(n) if x is None or not x.any() else np.maximum(x, 1e-6 * x.max())
                for (side, x), n in zip(own.items(), G.shape, strict=True)
            }
            over_left, over_right = np.diag(1 / small["left"]) / rows, np.diag(1 / small["right"]) / columns
            over_left, over_right = left @ over_left @ left.T, right @ over_right @ right.T
        fresh = {"left": G @ over_right @ G.T, "right": G.T @ over_left @ G}
        for side, basis in (("left", left), ("right", right)):
            if f"gram_{side}" in s:
                new[f"gram_{side}"] = beta * s[f"gram_{side}"] + (1 - beta) * fresh[side]
            if f"values_{side}" in s:
                seen = np.diag(basis.T @ fresh[side] @ basis)
                new[f"values_{side}"] = beta * s[f"values_{side}"] + (1 - beta) * seen
        if count == 0:
            return (0 * u if self.skip_first else u), self._start(G, new)
        if count % self.precondition_frequency == 0:
            m = left @ m @ right.T
            for side, basis in (("left", left), ("right", right)):
                if f"gram_{side}" in s:
                    order, new[f"basis_{side}"] = iterated(new[f"gram_{side}"], basis)
                    v = v[order] if side == "left" else v[:, order]
                    if self.kl:
                        new[f"values_{side}"] = new[f"values_{side}"][order]
            left, right = new.get("basis_left", left), new.get("basis_right", right)
            m = left.T @ m @ right
        return u, {**new, "mu": m, "nu": v}

    def _start(self, G: Array, new: dict[str, Array]) -> dict[str, Array]:
        rows, columns = G.shape
        U, _, Vt = np.linalg.svd(G, full_matrices=False)
        if rows <= columns or "basis_right" not in new:
            U = first(np.linalg.svd(G)[0], rows)
            V = first(G.T @ U, columns)
        else:
            V = first(Vt.T, columns)
            U = first(G @ V, rows)
        for side, basis in (("left", U), ("right", V)):
            if f"basis_{side}" in new:
                new[f"basis_{side}"] = basis
            if f"values_{side}" in new:
                new[f"values_{side}"] = np.full(len(basis), np.mean(G**2))
        return {**new, "mu": 0 * G, "nu": 0 * G}


def case(factory: str, options: dict[str, Any], narrow: bool = False) -> Case:
    given = {"weight_dimension_numbers": DIMS, **options}

    def made() -> Any:
        return getattr(gx, factory)(**{k: ours(v) for k, v in given.items()})

    def method() -> Any:
        o = {k: theirs(v) for k, v in options.items() if k not in ("mu_dtype", "nu_dtype")}
        rate, decay, mask = (
            o.pop(k, d) for k, d in (("learning_rate", 1), ("weight_decay", 1e-2), ("mask", True))
        )
        if factory == "scale_by_soap":
            return Soap(DIMS, **o)
        return ref.Chain(
            Soap(DIMS, **o),
            ref.Leafwise(ref.AddDecayedWeights(decay), mask),
            ref.Leafwise(ref.ScaleByLearningRate(rate)),
        )

    def text(value: Any) -> str:
        return getattr(value, "name", None) or ("dict" if isinstance(value, dict) else str(value))

    name = f"{factory}({', '.join(f'{k}={text(v)}' for k, v in given.items())})"
    # A column of a basis is known to rounding over the gap between its eigenvalue and the next one.
    return Case(name, made, method, 2.0**-7 if narrow else 1e-3, narrow, 2e-5)


CASES = [
    case("scale_by_soap", {}),
    case("scale_by_soap", {"precondition_frequency": 1, "shampoo_beta": 0.8, "b1": 0.5, "b2": 0.99}),
    case("scale_by_soap", {"b1": BETA1, "b2": BETA2, "eps": GROW, "skip_first": True}),
    case("scale_by_soap", {"max_precondition_dim": 2, "precondition_frequency": 3}),
    case("scale_by_soap", {"kl": True, "precondition_frequency": 3}),
    case("scale_by_soap", {"kl": True, "max_precondition_dim": 3, "shampoo_beta": BETA1}),
    case("scale_by_soap", {"mu_dtype": jnp.bfloat16, "nu_dtype": jnp.bfloat16}, narrow=True),
    case("soap", {"learning_rate": 1e-3, "weight_decay": 0.1, "mask": MATRICES}),
    case(
        "soap",
        {"learning_rate": WARM, "weight_decay": FALL, "mask": MATRICES, "b1": BETA1, "b2": 0.9, "eps": GROW}
        | {"shampoo_beta": 0.9, "precondition_frequency": 7, "max_precondition_dim": 5, "kl": True}
        | {"skip_first": True},
    ),
    case("soap", {"learning_rate": 1e-3, "mu_dtype": jnp.bfloat16, "nu_dtype": jnp.bfloat16}, narrow=True),
]

_OWN: dict[str, list[Any]] = {
    "b1": [0.5],
    "b2": [0.5],
    "eps": [0.1],
    "mu_dtype": [jnp.bfloat16],
    "shampoo_beta": [0.5],
    "precondition_frequency": [1],
    "max_precondition_dim": [0, 2],
    "kl": [True],
    "skip_first": [True],
    "nu_dtype": [jnp.bfloat16],
    "weight_dimension_numbers": [{"w": None, "b": None}, {"w": Dims(1, 0), "b": Dims((), 0)}],
}
OPTIONS: dict[str, tuple[dict[str, Any], dict[str, list[Any]]]] = {
    "scale_by_soap": ({"precondition_frequency": 2}, _OWN),
    "soap": (
        {"learning_rate": 0.1, "weight_decay": 0.1, "precondition_frequency": 2},
        _OWN | {"learning_rate": [0.2], "weight_decay": [0.0], "mask": [{"w": True, "b": False}]},
    ),
}


KEY = jax.random.key(5)


def gradients(shape: tuple[int, ...], steps: int = 25, seed: int = 0) -> np.ndarray:
    return np.random.default_rng(seed).normal(size=(steps, *shape)).astype(np.float32)


def run(tx: Any, grads: Any, start: Any = None) -> tuple[Any, Any]:
    """The last state, and all updates, of a loop."""
    grads = jax.tree.map(jnp.asarray, grads)
    start = jax.tree.map(lambda g: jnp.zeros_like(g[0]), grads) if start is None else start

    def step(state: Any, g: Any) -> tuple[Any, Any]:
        update, state = tx.update(g, state, start)
        return state, update

    return jax.jit(lambda: jax.lax.scan(step, tx.init(start), grads))()


def test_without_a_basis_it_is_adam() -> None:
    grads = {"w": gradients((4, 6)), "b": gradients((5,))}
    _, adam = run(gx.scale_by_adam(0.9, 0.99, 1e-6), grads)
    _, none = run(gx.scale_by_soap(0.9, 0.99, 1e-6, max_precondition_dim=0), grads)
    _, both = run(gx.scale_by_soap(0.9, 0.99, 1e-6), grads)
    jax.tree.map(np.testing.assert_array_equal, none, adam)
    np.testing.assert_array_equal(both["b"], adam["b"])
    np.testing.assert_array_equal(both["w"][0], adam["w"][0])  # the first step
    assert not np.allclose(both["w"][1], adam["w"][1], atol=0.1)


def test_the_first_step_may_be_skipped() -> None:
    """Then the second and all further steps are the same for matrices, and those of Adam one step later for others."""
    grads = {"w": gradients((4, 6)), "b": gradients((5,))}
    state, plain = run(gx.scale_by_soap(), grads)
    other, skipped = run(gx.scale_by_soap(skip_first=True), grads)
    np.testing.assert_allclose(skipped["w"][1:], plain["w"][1:], rtol=1e-5, atol=1e-6)
    jax.tree.map(lambda x, y: np.testing.assert_allclose(x, y, atol=1e-5), state.basis_left, other.basis_left)
    assert not any(np.any(u[0]) for u in skipped.values())
    _, late = run(gx.scale_by_soap(), {"b": grads["b"][1:]})
    np.testing.assert_allclose(skipped["b"][1:], late["b"], rtol=1e-6)


@pytest.mark.parametrize("options", [{}, {"kl": True}], ids=["soap", "kl"])
@pytest.mark.parametrize("every", [1, 4])
def test_turned_gradients_give_turned_updates(every: int, options: dict[str, Any]) -> None:
    """From the second step on: the first is Adam's, which knows axes."""
    random = np.random.default_rng(1)
    U, V = (np.linalg.qr(random.normal(size=(n, n)))[0].astype(np.float32) for n in (5, 4))
    grads = gradients((5, 4), 12)
    tx = gx.scale_by_soap(precondition_frequency=every, **options)
    _, one = run(tx, grads)
    _, two = run(tx, U @ grads @ V)
    np.testing.assert_allclose(two[1:], U @ np.asarray(one[1:]) @ V, atol=2e-3)
    assert not np.allclose(two[0], U @ np.asarray(one[0]) @ V, atol=0.1)


def test_complex_gradients_are_turned_by_unitary_matrices() -> None:
    random = np.random.default_rng(2)
    grads, more = (random.normal(size=(9, 4, 4)) + 1j * random.normal(size=(9, 4, 4)) for _ in range(2))
    U, V = np.linalg.qr(more[:2])[0]
    U, V, grads = (x.astype(np.complex64) for x in (U, V, grads))
    tx = gx.scale_by_soap(precondition_frequency=2)
    _, one = run(tx, grads)
    _, two = run(tx, U @ grads @ V)
    np.testing.assert_allclose(two[1:], U @ np.asarray(one[1:]) @ V, atol=2e-3)


def test_of_a_steady_gradient_it_takes_the_direction_of_shampoo() -> None:
    """`L^{-1/4} G R^{-1/4}` of a gradient that stays is its orthogonal factor, and so is Adam's step in its basis."""
    g = gradients((4, 4), 1)[0]
    _, updates = run(gx.scale_by_soap(precondition_frequency=1), np.stack([g] * 20))
    U, _, Vt = np.linalg.svd(g)
    for u in updates[1:]:
        np.testing.assert_allclose(u, U @ Vt, atol=1e-4)


def test_what_has_no_gradient_does_not_move() -> None:
    """Rows and columns without one, and what the gradients of a matrix never point to, once a basis has been followed.

    The first one comes of one gradient, and of what has no part in that it cannot know what never will have.
    """
    grads = gradients((6, 8), 25) * (np.arange(6) != 2)[:, None] * (np.arange(8) < 5)
    grads[:, :, 4] = grads[:, :, 3]
    for options in ({}, {"kl": True}, {"precondition_frequency": 1}):
        _, updates = run(gx.scale_by_soap(eps=0.0, **options), grads)
        late = np.asarray(updates[11:])
        assert np.max(np.abs(late[:, 2])) < 1e-4, options
        assert np.max(np.abs(late[:, :, 5:])) < 1e-4, options
        assert np.max(np.abs(late[:, :, 4] - late[:, :, 3])) < 1e-3, options
        assert np.sqrt(np.mean(late[-1] ** 2)) > 0.1


@pytest.mark.parametrize("kl", [False, True])
@pytest.mark.parametrize("eps", [1e-8, 0.0])
def test_it_stays_finite(kl: bool, eps: float) -> None:
    """Gradients of zero at first, one of rank 1, very small and very large ones, no element."""
    tx = gx.scale_by_soap(eps=eps, kl=kl, precondition_frequency=2)
    one = np.outer(np.arange(1.0, 4.0), [1.0, -1.0]).astype(np.float32)
    sizes = [0.0, 0.0, 1.0, 1e-18, 0.0, 1e14, 1e-30, 1.0, 0.0]
    grads = np.stack([np.float32(size) * one for size in sizes])
    state, updates = run(tx, {"w": grads, "empty": np.zeros((len(sizes), 0, 3), np.float32)})
    assert all(np.all(np.isfinite(x)) for x in jax.tree.leaves((state, updates)))
    assert not np.any(updates["w"][:2])
    assert np.any(updates["w"][2])


def test_layers_of_a_stack_are_worked_one_by_one() -> None:
    """Declared by `per_layer`, by dimension numbers (known, or asked for when the parameters are there), or apart."""
    grads = gradients((3, 4, 5), 8)
    options = {"precondition_frequency": 2}
    dims = Dims(1, 2)
    apart = np.stack([run(gx.scale_by_soap(**options), grads[:, i])[1] for i in range(3)], 1)
    for tx in (
        gx.per_layer(gx.scale_by_soap(**options), "*"),
        gx.scale_by_soap(**options, weight_dimension_numbers=dims),
        gx.scale_by_soap(**options, weight_dimension_numbers=lambda params: {"w": dims}),
    ):
        state, updates = run(tx, {"w": grads})
        np.testing.assert_allclose(updates["w"], apart, atol=2e-4)
        assert state.gram_left["w"].shape == (3, 4, 4)
        assert state.basis_right["w"].shape == (3, 5, 5)
    state, updates = run(gx.scale_by_soap(), {"w": grads})
    np.testing.assert_array_equal(updates["w"], run(gx.scale_by_adam(0.95, 0.95), {"w": grads})[1]["w"])


def test_16_bits_keep_grams_and_bases_in_32() -> None:
    state, updates = run(gx.scale_by_soap(kl=True), gradients((4, 6)).astype(jnp.bfloat16))
    assert updates.dtype == state.mu.dtype == jnp.bfloat16
    wide = (state.nu, state.gram_left, state.basis_right, state.values_left)
    assert {x.dtype for x in wide} == {jnp.dtype(jnp.float32)}
    np.testing.assert_allclose(state.basis_right.T @ state.basis_right, np.eye(6), atol=1e-6)


def test_codes_go_by_roles() -> None:
    """Moments are stored in codes, m by the root of v, as both are in the basis; grams and bases are not."""
    params = {"w": jax.random.normal(KEY, (64, 80))}
    state = gx.lowbit.quantized(gx.soap(0.1), min_size=1).init(params)[0]
    assert isinstance(state.mu["w"], gx.lowbit.Quantized)
    assert state.mu["w"].form.relative == "nu"
    assert isinstance(state.nu["w"], gx.lowbit.Quantized)
    for x in (state.gram_left, state.gram_right, state.basis_left, state.basis_right):
        assert x["w"].dtype == jnp.float32


@pytest.mark.parametrize("kind", [AxisType.Auto, AxisType.Explicit])
def test_cut_matrices_are_worked_whole(kind: Any) -> None:
    grads = {"w": gradients((8, 12), 12), "b": gradients((8,), 12)}
    tx = gx.soap(0.1, precondition_frequency=3, kl=True)
    start = {"w": jnp.ones((8, 12)), "b": jnp.ones(8)}
    _, wanted = run(tx, grads, start)
    mesh = jax.make_mesh((2, 4), ("x", "y"), axis_types=(kind, kind))
    with jax.set_mesh(mesh):
        layout = {"w": NamedSharding(mesh, P("x", "y")), "b": NamedSharding(mesh, P("x"))}
        params = jax.device_put(start, layout)
        state, step = gx.sharding.init_sharded(tx, params), jax.jit(tx.update)
        assert state[0].basis_right["w"].sharding.spec == P("y", None)
        for i in range(12):
            g = jax.device_put({name: jnp.asarray(x[i]) for name, x in grads.items()}, layout)
            updates, state = step(g, state, params)
    for name, u in updates.items():
        np.testing.assert_allclose(u, wanted[name][-1], atol=1e-4)
        assert u.sharding.is_equivalent_to(layout[name], u.ndim)


def test_wrong_arguments_are_named() -> None:
    for options, text in (
        ({"b1": 1.0}, r"gx\.scale_by_soap\(b1=1\.0\).*\(in gx\.soap\)"),
        ({"shampoo_beta": -0.1}, r"shampoo_beta=-0\.1"),
        ({"eps": -1.0}, r"eps=-1\.0"),
        ({"precondition_frequency": 0}, r"precondition_frequency=0"),
        ({"max_precondition_dim": -1}, r"max_precondition_dim=-1"),
        ({"weight_decay": -0.2}, r"gx\.soap\(weight_decay=-0\.2\)"),
    ):
        with pytest.raises(ValueError, match=text):
            gx.soap(0.1, **options)
    tx = gx.scale_by_soap(weight_dimension_numbers={"w": Dims(0, 5)})
    with pytest.raises(ValueError, match=r"gx\.scale_by_soap: .*the leaf 'w': there is no axis 5"):
        tx.init({"w": jnp.ones((4, 6))})
