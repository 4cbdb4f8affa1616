"""Muon: the reference from its authors' text, its rows of the grid, its options, and what is true of it alone."""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from optax.contrib import MuonDimensionNumbers as Dims

import gradxform as gx
from tests import reference as ref
from tests.reference.scalars import Array, Hyper, bias_correction, hyper

from .forced import ours, theirs
from .grid_cases import BETA1, FALL, GROW, MATRICES, WARM, Case
from .halves import Halves

#: Of the leaves of the grid and of the options alike; a vector is a matrix of one row, a number one of one element.
DIMS = {"w": Dims(), "b": Dims((), 0), "s": Dims((), ()), "c": Dims((1, 0), -1), "k": Dims(3, 1)}
OF_OPTIONS = {"w": Dims(), "b": Dims((), 0)}


def matrices(x: Array, dims: Dims) -> tuple[list[Array], Any]:
    """The matrices of an array in the order of their axes, and how an array is made of such a list again."""
    several = [(a,) if isinstance(a, int) else tuple(a) for a in dims]
    rows, columns = ([i % x.ndim for i in axes] for axes in several)
    rest = [i for i in range(x.ndim) if i not in rows + columns]
    turned = np.transpose(x, rest + rows + columns)
    fan_in, fan_out = (int(np.prod([x.shape[i] for i in axes])) for axes in (rows, columns))

    def back(parts: list[Array]) -> Array:
        whole = np.stack(parts).reshape(turned.shape)
        return np.transpose(whole, np.argsort(rest + rows + columns))

    return list(turned.reshape(-1, fan_in, fan_out)), back


def newton_schulz(x: Array, triples: Any, eps: float, preconditioning: str) -> Array:
    """X <- a X + (b A + c A^2) X with A = X X^T, on the side with fewer rows, as the authors write it."""
    if x.shape[0] > x.shape[1]:
        return newton_schulz(x.T, triples, eps, preconditioning).T
    x = x / ((np.linalg.norm(x, 2) if preconditioning == "spectral" else np.linalg.norm(x)) + eps)
    for i, (a, b, c) in enumerate(triples):
        gram = x @ x.T
        if i == 0 and preconditioning == "aol":
            x = x / np.sqrt(np.abs(gram).sum(1, keepdims=True))
        if i == 0 and preconditioning == "schatten":
            x = x / np.sqrt(np.linalg.norm(gram))
        gram = x @ x.T
        x = a * x + (b * gram + c * gram @ gram) @ x
    return x


@dataclass(frozen=True)
class Muon:
    """The update of `scale_by_muon` for a dictionary of arrays; coefficients are those of the state."""

    dims: Mapping[str, Dims]
    ns_steps: int = 5
    beta: Hyper = 0.95
    eps: Hyper = 1e-8
    nesterov: bool = True
    adaptive: bool = False
    preconditioning: str = "frobenius"

    def _one(self, name: str, g: Array, m: Array, count: int, coefficients: Array) -> tuple[Array, Array]:
        beta, eps, t = hyper(self.beta, count), hyper(self.eps, count), count + 1
        m = beta * m + (1 - beta) * g
        d = m / bias_correction(beta, t)
        if self.nesterov:
            d = beta * m / bias_correction(beta, t + 1) + (1 - beta) * g / bias_correction(beta, t)
        triples = [coefficients] * self.ns_steps if coefficients.ndim == 1 else coefficients
        parts, back = matrices(d, self.dims[name])
        u = back([newton_schulz(x, triples, eps, self.preconditioning) for x in parts])
        return m, u * np.sum(u * d) if self.adaptive else u

    def update(self, grads: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        count, pairs = state["count"], {}
        for name, g in grads.items():
            pairs[name] = self._one(name, g, state["mu"][name], count, state["ns_coeffs"])
        mu, u = ({name: pair[i] for name, pair in pairs.items()} for i in (0, 1))
        return {**state, "count": count + 1, "mu": mu}, u


@dataclass(frozen=True)
class Shape:
    """The factor of a shape."""

    dims: Mapping[str, Dims]
    consistent_rms: Hyper | None = None
    convention: str | None = None

    def update(self, grads: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        made, count = {}, state.get("count", 0)
        for name, g in grads.items():
            fan_in, fan_out = matrices(g, self.dims[name])[0][0].shape
            if self.convention == "spectral":
                made[name] = g * (fan_out / fan_in) ** 0.5
            elif self.convention == "moonshot":
                made[name] = g * 0.2 * max(fan_in, fan_out) ** 0.5
            elif self.consistent_rms is None:
                made[name] = g * max(1, fan_out / fan_in) ** 0.5
            else:
                made[name] = g * max(fan_in, fan_out) ** 0.5 * hyper(self.consistent_rms, count)
        return ({"count": count + 1} if "count" in state else state), made


@dataclass(frozen=True)
class Neurons:
    """v = EMA of the mean of squares of each column, u / (sqrt(v) + eps), and the norm of each matrix as it was."""

    dims: Mapping[str, Dims]
    b2: Hyper = 0.95
    eps: Hyper = 1e-8

    def update(self, grads: Any, state: Any, params: Any = None) -> tuple[Any, Any]:
        del params
        made: dict[str, Any] = {}
        nu: dict[str, Any] = {}
        count = state.get("count", 0)
        b2, eps = (hyper(h, count) for h in (self.b2, self.eps))
        for name, g in grads.items():
            parts, back = matrices(g, self.dims[name])
            rows = self.dims[name][0]
            rows = tuple(i % g.ndim for i in ((rows,) if isinstance(rows, int) else rows))
            nu[name] = b2 * state["nu"][name] + (1 - b2) * np.mean(np.square(g), axis=rows)
            sizes, _ = matrices(np.broadcast_to(np.expand_dims(nu[name], rows), g.shape), self.dims[name])
            turned = [x / (np.sqrt(v) + eps) for x, v in zip(parts, sizes, strict=True)]
            made[name] = back(
                [y * np.linalg.norm(x) / np.linalg.norm(y) for x, y in zip(parts, turned, strict=True)]
            )
        return {**({"count": count + 1} if "count" in state else {}), "nu": nu}, made


def recipe(dims: Mapping[str, Dims], o: Mapping[str, Any]) -> Halves:
    """The reference of the whole, by the arguments of `gx.muon`."""
    own = ("ns_steps", "beta", "eps", "nesterov", "adaptive", "preconditioning")
    rate, kept = o["learning_rate"], {k: v for k, v in o.items() if k in own}
    mask = o.get("weight_decay_mask", True)
    neurons = [Neurons(dims, o["neuron_b2"])] if "neuron_b2" in o else []
    mine = ref.Chain(
        Muon(dims, **kept),
        *neurons,
        Shape(dims, o.get("consistent_rms"), o.get("convention")),
        ref.Leafwise(
            ref.AddDecayedWeights(o.get("weight_decay", 0.0)),
            {k: mask if mask is True else mask[k] for k in dims},
        ),
        ref.Leafwise(ref.ScaleByLearningRate(rate)),
    )
    rest = ref.adamw(
        o.get("adam_learning_rate", rate),
        o.get("adam_b1", 0.9),
        o.get("adam_b2", 0.999),
        o.get("eps", 1e-8),
        o.get("adam_eps_root", 0.0),
        weight_decay=o.get("adam_weight_decay", 0.0),
        nesterov=o.get("nesterov", True),
    )
    return Halves(dims, {"muon": mine, "adam": rest})


def case(factory: str, options: dict[str, Any], dims: Any = None, narrow: bool = False) -> Case:
    argument = {"muon": "muon_weight_dimension_numbers"}.get(factory, "weight_dimension_numbers")
    given = options if dims is None else options | {argument: dims}

    def made() -> Any:
        return getattr(gx, factory)(**{k: ours(v) for k, v in given.items()})

    def method() -> Any:
        o = {
            k: theirs(v)
            for k, v in options.items()
            if k not in ("mu_dtype", "ns_dtype", "ns_coeffs", "matrices")
        }
        known = {"w": Dims()} if dims is None else dims
        if factory == "muon":
            return recipe({k: d for k, d in known.items() if d is not None}, o)
        if factory == "normuon":
            first = {"convention": "moonshot", "adam_b2": 0.95, "neuron_b2": o.pop("b2", 0.95)}
            return recipe({k: d for k, d in known.items() if d is not None}, first | o)
        return {"scale_by_muon": Muon, "scale_by_shape": Shape, "normalize_neurons": Neurons}[factory](
            known, **o
        )

    def text(value: Any) -> str:
        return getattr(value, "name", None) or ("dict" if isinstance(value, dict) else str(value))

    name = f"{factory}({', '.join(f'{k}={text(v)}' for k, v in given.items())})"
    # Five steps make the smallest singular value 480 times as large, and what was rounded off with it.
    return Case(name, made, method, 2.0**-7 if narrow else 2e-6, narrow, 1e-5)


CASES = [
    case("scale_by_muon", {}, DIMS),
    case("scale_by_muon", {"ns_coeffs": "dion", "nesterov": False, "beta": 0.5}, DIMS),
    case("scale_by_muon", {"ns_coeffs": (3.0, -3.2, 1.2), "ns_steps": 2, "adaptive": True}, DIMS),
    case("scale_by_muon", {"beta": BETA1, "eps": GROW, "ns_steps": 3}, DIMS),
    case("scale_by_muon", {"preconditioning": "aol", "ns_steps": 3}, DIMS),
    case("scale_by_muon", {"preconditioning": "schatten", "ns_steps": 3}, DIMS),
    case("scale_by_muon", {"preconditioning": "spectral", "ns_steps": 3}, DIMS),
    case("scale_by_muon", {"mu_dtype": jnp.bfloat16, "ns_dtype": None, "ns_steps": 2}, DIMS, narrow=True),
    case("scale_by_shape", {}, DIMS),
    case("scale_by_shape", {"consistent_rms": FALL}, DIMS),
    case("scale_by_shape", {"convention": "moonshot"}, DIMS),
    case("scale_by_shape", {"convention": "spectral"}, DIMS),
    case("normalize_neurons", {}, DIMS),
    case("normalize_neurons", {"b2": BETA1, "eps": GROW}, DIMS | {"k": Dims((0, 3), 1)}),
    case("normuon", {"learning_rate": 1e-3, "adam_learning_rate": 3e-3, "weight_decay": 0.1}),
    case(
        "normuon",
        {"learning_rate": WARM, "weight_decay": FALL, "weight_decay_mask": MATRICES, "b2": 0.5, "beta": 0.8}
        | {"ns_coeffs": "standard", "ns_steps": 2, "eps": 1e-6, "nesterov": False, "adam_b1": 0.8}
        | {"adam_b2": 0.9, "adam_weight_decay": 0.1, "convention": "spectral", "matrices": ("w", "c")},
        {"w": Dims(), "b": None, "s": None, "c": Dims(0, 2), "k": None},
    ),
    case("normuon", {"learning_rate": 0.02, "mu_dtype": jnp.bfloat16, "ns_dtype": None}, narrow=True),
    case("muon", {"learning_rate": 0.02, "adam_learning_rate": 1e-3, "weight_decay": 0.1}),
    case(
        "muon",
        {"learning_rate": WARM, "weight_decay": FALL, "weight_decay_mask": MATRICES}
        | {"ns_coeffs": "standard", "ns_steps": 3, "beta": BETA1, "eps": GROW, "consistent_rms": 0.2}
        | {"adam_b1": BETA1, "adam_b2": 0.95, "adam_eps_root": 1e-6, "adam_weight_decay": 0.1}
        | {"nesterov": False, "adaptive": True, "preconditioning": "schatten", "neuron_b2": 0.9},
        {"w": Dims(), "b": None, "s": None, "c": Dims(0, 2), "k": Dims((0, 1), (2, 3))},
    ),
    case(
        "muon",
        {"learning_rate": 0.02, "mu_dtype": jnp.bfloat16, "ns_dtype": None, "matrices": "w"}
        | {"convention": "spectral"},
        narrow=True,
    ),
]

_OWN: dict[str, list[Any]] = {
    "ns_coeffs": ["dion", "polar_express", (2.0, -1.5, 0.5)],
    "ns_steps": [2, 6],
    "beta": [0.5],
    "eps": [0.1],
    "mu_dtype": [jnp.bfloat16],
    "nesterov": [False],
    "adaptive": [True],
    "preconditioning": ["spectral", "aol", "schatten"],
    "ns_dtype": ["bfloat16"],
}
OPTIONS: dict[str, tuple[dict[str, Any], dict[str, list[Any]]]] = {
    "scale_by_muon": (
        {"weight_dimension_numbers": OF_OPTIONS},
        _OWN | {"weight_dimension_numbers": [OF_OPTIONS | {"w": Dims((0, 1), ())}]},
    ),
    "scale_by_shape": (
        {"weight_dimension_numbers": OF_OPTIONS},
        {"consistent_rms": [0.2], "convention": ["moonshot"]}
        | {"weight_dimension_numbers": [OF_OPTIONS | {"w": Dims(1, 0)}]},
    ),
    "normalize_neurons": (
        {"weight_dimension_numbers": OF_OPTIONS},
        {"b2": [0.5], "eps": [0.1], "weight_dimension_numbers": [OF_OPTIONS | {"w": Dims(1, 0)}]},
    ),
    "normuon": (
        {"learning_rate": 0.1, "weight_decay": 0.1, "adam_weight_decay": 0.1, "matrices": "w"},
        {name: values for name, values in _OWN.items() if name not in ("adaptive", "preconditioning")}
        | {
            "learning_rate": [0.2],
            "b2": [0.5],
            "weight_decay": [0.0],
            "weight_decay_mask": [{"w": False, "b": False}],
            "adam_b1": [0.5],
            "adam_b2": [0.9],
            "adam_weight_decay": [0.0],
            "adam_learning_rate": [0.2],
            "weight_dimension_numbers": [{"w": Dims(1, 0)}],
            "matrices": [lambda path, leaf: False],
            "convention": ["keller", "spectral"],
        },
    ),
    "muon": (
        {"learning_rate": 0.1, "weight_decay": 0.1, "adam_weight_decay": 0.1},
        _OWN
        | {
            "learning_rate": [0.2],
            "weight_decay": [0.0],
            "weight_decay_mask": [{"w": False, "b": False}],
            "adam_b1": [0.5],
            "adam_b2": [0.9],
            "adam_eps_root": [0.1],
            "adam_weight_decay": [0.0],
            "adam_learning_rate": [0.2],
            "muon_weight_dimension_numbers": [OF_OPTIONS, {"w": Dims((0, 1), ()), "b": None}],
            "consistent_rms": [0.2],
            "convention": ["moonshot"],
            "neuron_b2": [0.95],
            "matrices": [lambda path, leaf: False],
        },
    ),
}


KEY = jax.random.key(7)
PARAMS = {
    "embed": jax.random.normal(KEY, (6, 4)),
    "layers": {"w": jax.random.normal(KEY, (3, 4, 5)), "b": jax.random.normal(KEY, (3, 4))},
    "head": jax.random.normal(KEY, (4, 2)),
    "norm": jax.random.normal(KEY, (4,)),
}
GRADS = jax.tree.map(jnp.sin, PARAMS)


def groups(tx: Any, params: Any = PARAMS) -> set[str]:
    """The leaves that have a momentum of Muon's."""
    mu = tx.init(params).inner_states["muon"].inner_state[0].mu
    return {
        jax.tree_util.keystr(path, simple=True, separator="/") for path, _ in jax.tree.leaves_with_path(mu)
    }


def test_who_is_orthogonalised() -> None:
    with pytest.warns(UserWarning, match="orthogonalises 'embed', 'head';"):
        assert groups(gx.muon(0.1)) == {"embed", "layers/b", "head"}
    assert groups(gx.muon(0.1, matrices=gx.matrices(exclude=("embed", "layers/*")))) == {"head"}
    stacked = gx.per_layer(gx.muon(0.1), "layers/*")
    with pytest.warns(UserWarning, match="orthogonalises 'embed', 'head';"):
        assert groups(stacked) == {"embed", "layers/w", "head"}
    assert groups(gx.muon(0.1, matrices=gx.matrices(stacked="layers/*", exclude=("embed", "head")))) == {
        "layers/w"
    }
    dims = {"embed": None, "layers": {"w": Dims(1, 2), "b": None}, "head": Dims(), "norm": None}
    assert groups(gx.muon(0.1, muon_weight_dimension_numbers=dims)) == {"layers/w", "head"}
    assert groups(gx.muon(0.1, muon_weight_dimension_numbers=lambda params: dims)) == {"layers/w", "head"}
    by_path = gx.muon(
        0.1, muon_weight_dimension_numbers=lambda path, leaf: Dims(1, 2) if leaf.ndim == 3 else None
    )
    assert groups(by_path) == {"layers/w"}
    assert groups(gx.muon(0.1, muon_weight_dimension_numbers=dims, matrices="head")) == {"head"}
    assert groups(gx.muon(0.1), {"b": jnp.ones(3)}) == set()


def test_a_stack_is_worked_layer_by_layer() -> None:
    """Declared by `per_layer`, by dimension numbers (known, or asked for when the parameters are there), or apart."""
    params, grads = ({"layers": {"w": tree["layers"]["w"]}} for tree in (PARAMS, GRADS))
    dims = {"layers": {"w": Dims(1, 2)}}
    ways = (
        gx.per_layer(gx.muon(0.1, ns_steps=2), "layers/*"),
        gx.muon(0.1, ns_steps=2, muon_weight_dimension_numbers=dims),
        gx.muon(0.1, ns_steps=2, muon_weight_dimension_numbers=lambda params: dims),
    )

    @jax.jit
    def all_of_them(grads: Any, params: Any) -> Any:
        found = [tx.update(grads, tx.init(params), params)[0]["layers"]["w"] for tx in ways]
        alone = gx.muon(0.1, ns_steps=2)
        apart = [alone.update(g, alone.init(g), g)[0] for g in grads["layers"]["w"]]
        return jnp.stack([*found, jnp.stack(apart)])

    found = np.asarray(all_of_them(grads, params))
    np.testing.assert_allclose(found, np.broadcast_to(found[0], found.shape), atol=1e-6)
    state = ways[0].init(params)
    assert state.inner_states["muon"].inner_state[0].mu["layers"]["w"].shape == (3, 4, 5)


def test_what_is_no_matrix_is_refused() -> None:
    tx = gx.scale_by_muon()
    for name, text in (
        ("norm", r"the leaf 'norm' of shape \(4,\) is no matrix"),
        ("w", r"of shape \(3, 4, 5\)"),
    ):
        tree = {name: PARAMS["layers"]["w"] if name == "w" else PARAMS[name]}
        with pytest.raises(
            ValueError, match=rf"gx\.scale_by_muon: .*{text}(.|\n)*gx\.muon gives such leaves to AdamW"
        ):
            tx.update(tree, tx.init(tree), tree)
    with pytest.raises(ValueError, match=r"gx\.scale_by_shape: .* is no matrix"):
        gx.scale_by_shape().update(jnp.ones(3), gx.scale_by_shape().init(None))


def test_wrong_arguments_are_named() -> None:
    for options, text in (
        ({"beta": 1.0}, r"gx\.scale_by_muon\(beta=1\.0\)"),
        ({"eps": -1.0}, r"gx\.scale_by_adam\(eps=-1\.0\)"),
        (
            {"preconditioning": "l2"},
            r"gx\.scale_by_muon\(preconditioning='l2'\): wanted 'frobenius', 'spectral'",
        ),
        ({"ns_coeffs": "keller"}, r"gx\.scale_by_muon\(ns_coeffs='keller'\): wanted 'standard', 'dion'"),
        ({"ns_dtype": "int8"}, r"gx\.scale_by_muon\(ns_dtype=.*floating"),
        ({"consistent_rms": -0.2}, r"gx\.muon\(consistent_rms=-0\.2\)"),
        (
            {"convention": "jordan"},
            r"gx\.muon\(convention='jordan'\): wanted 'keller', 'moonshot', 'spectral'",
        ),
        ({"convention": "keller", "consistent_rms": 0.2}, r"gx\.muon\(.*wanted one of the two"),
        ({"neuron_b2": 1.0}, r"gx\.normalize_neurons\(b2=1\.0\)"),
        ({"adam_learning_rate": -0.2}, r"gx\.muon\(adam_learning_rate=-0\.2\)"),
        ({"weight_decay": -0.2}, r"gx\.muon\(weight_decay=-0\.2\)"),
    ):
        with pytest.raises(ValueError, match=text):
            gx.muon(0.1, **options)
    with pytest.raises(TypeError, match="dimension numbers there is"):
        gx.muon(0.1, muon_weight_dimension_numbers={"w": True})


def test_it_is_a_value() -> None:
    tx = gx.muon(0.02, "polar_express", 6, adam_learning_rate=3e-4, matrices=gx.matrices(exclude="embed*"))
    assert gx.from_json(gx.to_json(tx)) == tx
    assert eval(repr(tx)) == tx
    dims = {"w": Dims(reduction_axis=(0, 1), output_axis=2), "b": None}
    like = gx.scale_by_muon(weight_dimension_numbers=dims)
    assert gx.from_json(gx.to_json(like)) == like
    assert like != gx.scale_by_muon(weight_dimension_numbers={"w": Dims((0, 1), -1), "b": None})
    for text in ('["a:B", {}]', '["optax.contrib:MuonDimensionNumbers", {"axis": 1}]', "3", "[[], {}]"):
        with pytest.raises(ValueError, match="from_json: "):
            gx.from_json(
                f'{{"gradxform": 1, "factory": "scale", "arguments": {{"step_size": {{"named": {text}}}}}}}'
            )
    assert tx != gx.muon(0.02, adam_learning_rate=3e-4, matrices=gx.matrices(exclude="embed*"))
    assert [link.address for link in tx.plan.links][:4] == [
        "[muon]/muon",
        "[muon]/shape",
        "[muon]/decay",
        "[muon]/rate",
    ]
    assert len(tx.plan.segments) == 1


def test_codes_go_by_roles() -> None:
    """The momentum is stored in codes, the coefficients are not."""
    params = {"w": jax.random.normal(KEY, (64, 80))}
    state = gx.lowbit.quantized(gx.muon(0.1), min_size=1).init(params)
    muon = state.inner_states["muon"].inner_state[0]
    assert isinstance(muon.mu["w"], gx.lowbit.Quantized)
    assert muon.ns_coeffs.dtype == jnp.float32


PLAN = {"*/w": Dims(1, 2), "head": Dims(), "*": None}


def test_a_plan_by_path_says_what_becomes_of_each_leaf() -> None:
    """The first pattern that takes a leaf decides; the plan is text and `describe` prints what came of it."""
    tx = gx.muon(0.1, muon_weight_dimension_numbers=PLAN)
    assert groups(tx) == {"layers/w", "head"}
    assert gx.from_json(gx.to_json(tx)) == tx
    told = [line.split() for line in str(gx.describe(tx, PARAMS)).splitlines() if "[muon]/muon" in line]
    assert ["[muon]/muon", "head", "(4,", "2)", "4", "x", "2"] in told
    assert ["[muon]/muon", "layers/w", "(3,", "4,", "5)", "3", "of", "4", "x", "5"] in told
    links = gx.describe(tx, PARAMS).data["links"]
    assert next(link for link in links if link["seen"])["seen"] == {"head": "4 x 2", "layers/w": "3 of 4 x 5"}
    by_name = gx.muon(
        0.1, muon_weight_dimension_numbers={"embed": None, "layers": {"w": Dims(1, 2), "b": None}}
    )
    a, b = (t.update(GRADS, t.init(PARAMS), PARAMS)[0] for t in (tx, by_name))
    np.testing.assert_allclose(a["layers"]["w"], b["layers"]["w"], rtol=1e-6)


def test_what_a_plan_cannot_mean_is_refused() -> None:
    with pytest.raises(ValueError, match=r"gx\.muon: nothing belongs to '\*/typo'"):
        gx.muon(0.1, muon_weight_dimension_numbers={"*/typo": Dims(), "*": None}).init(PARAMS)
    with pytest.raises(TypeError, match=r"the dimension numbers of '\*/w' are 3"):
        gx.muon(0.1, muon_weight_dimension_numbers={"*/w": 3})
    with pytest.raises(TypeError, match=r"keys there is 3"):
        gx.muon(0.1, muon_weight_dimension_numbers={"*/w": Dims(), 3: None})


def test_describe_asks_a_function_of_the_parameters() -> None:
    """It printed what the transform would be without any parameters: other leaves than those that are taken."""
    tx = gx.muon(0.1, muon_weight_dimension_numbers=lambda params: jax.tree.map(_heads, params))
    taken = {link.address: link.leaves for link in gx.describe(tx, PARAMS).facts.links}
    assert taken["[muon]/muon"] == ("layers/w",)
    assert groups(tx) == {"layers/w"}


def _heads(x: Any) -> Any:
    return Dims(1, 2) if x.ndim == 3 else None


def test_normalised_neurons_are_alike_and_the_norm_is_kept() -> None:
    g = jax.random.normal(KEY, (5, 7)) * jnp.arange(1.0, 8.0)[None]
    tx = gx.normalize_neurons(b2=0.0)
    u, _ = tx.update(g, tx.init(g))
    columns = np.linalg.norm(u, axis=0)
    np.testing.assert_allclose(columns, columns[0], rtol=1e-5)
    np.testing.assert_allclose(np.linalg.norm(u), np.linalg.norm(g), rtol=1e-5)
    top = np.abs(g).max(0, keepdims=True)
    np.testing.assert_allclose(u / np.abs(u).max(0, keepdims=True), g / top, rtol=1e-5)
    zero = jnp.zeros((3, 2))
    assert not np.any(tx.update(zero, tx.init(zero))[0])
    assert tx.init(jnp.ones((4, 3), jnp.bfloat16)).nu.dtype == jnp.float32


def test_conventions_have_the_size_that_they_are_named_for() -> None:
    """Of an orthogonal update: Moonshot's root mean square is 0.2, and spectral's change of an output is the rate."""
    g = jnp.linalg.qr(jax.random.normal(KEY, (64, 16)))[0]
    moonshot, spectral, keller = (
        gx.scale_by_shape(convention=c).update(g, ())[0] for c in ("moonshot", "spectral", "keller")
    )
    assert float(jnp.sqrt(jnp.mean(moonshot**2))) == pytest.approx(0.2, rel=1e-5)
    assert float(jnp.linalg.norm(spectral, 2)) == pytest.approx((16 / 64) ** 0.5, rel=1e-5)
    np.testing.assert_array_equal(keller, g)
