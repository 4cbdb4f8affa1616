"""Every transform of Optax runs inside our chains under strict settings as it runs alone under JAX's standard ones."""

import functools
import inspect
import warnings
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import optax.contrib as contrib
import pytest

import gradxform as gx
from tests.interop.problem import fall, grad, loss, optax_s_own, params, train

pytestmark = pytest.mark.interop


def _always(step: Any, **extra: Any) -> Any:
    del extra
    return step >= 0


def _halved(updates: Any, params: Any) -> Any:
    del params
    return jax.tree.map(lambda u: u / 2, updates)


def _norm(updates: Any) -> Any:
    return optax.tree.norm(updates)


#: Arguments where the factory asks for some. What is not here is called with `learning_rate=0.1` or with nothing.
CALLS: dict[str, Callable[[], Any]] = {
    "adaptive_grad_clip": lambda: optax.adaptive_grad_clip(0.1),
    "add_noise": lambda: optax.add_noise(0.1, 0.5, key=jax.random.key(0)),
    "adafactor": lambda: optax.adafactor(0.1, min_dim_size_to_factor=2),
    "apply_every": lambda: optax.apply_every(2),
    "apply_if_finite": lambda: optax.apply_if_finite(optax.adam(0.1), 3),
    "chain": lambda: optax.chain(optax.clip(0.5), optax.adam(0.1)),
    "clip": lambda: optax.clip(0.5),
    "clip_by_block_rms": lambda: optax.clip_by_block_rms(0.5),
    "clip_by_global_norm": lambda: optax.clip_by_global_norm(0.5),
    "conditionally_mask": lambda: optax.conditionally_mask(optax.adam(0.1), _always),
    "conditionally_transform": lambda: optax.conditionally_transform(optax.adam(0.1), _always),
    "add_decayed_weights": lambda: optax.add_decayed_weights(0.1, mask={"w": True, "b": False}),
    "ema": lambda: optax.ema(0.9),
    "flatten": lambda: optax.flatten(optax.adam(0.1)),
    "freeze": lambda: optax.freeze({"w": True, "b": False}),
    "inject_hyperparams": lambda: optax.inject_hyperparams(optax.adamw)(0.1),
    "masked": lambda: optax.masked(optax.adam(0.1), {"w": True, "b": False}),
    "multi_transform": lambda: optax.multi_transform(
        {0: optax.adam(0.1), 1: optax.set_to_zero()}, {"w": 0, "b": 1}
    ),
    "named_chain": lambda: optax.named_chain(("a", optax.clip(0.5)), ("b", optax.adam(0.1))),
    "noisy_sgd": lambda: optax.noisy_sgd(0.1, key=jax.random.key(0)),
    "partition": lambda: optax.partition({0: optax.adam(0.1), 1: optax.sgd(0.1)}, {"w": 0, "b": 1}),
    "scale": lambda: optax.scale(0.5),
    "scale_by_backtracking_linesearch": lambda: optax.scale_by_backtracking_linesearch(5),
    "scale_by_zoom_linesearch": lambda: optax.scale_by_zoom_linesearch(5),
    "scale_by_schedule": lambda: optax.scale_by_schedule(optax.linear_schedule(1.0, 0.0, 10)),
    "selective_transform": lambda: optax.selective_transform(
        optax.adam(0.1), freeze_mask={"w": True, "b": False}
    ),
    "snapshot": lambda: optax.snapshot("norm", _norm),
    "stateless": lambda: optax.stateless(_halved),
    "stateless_with_tree_map": lambda: optax.stateless_with_tree_map(lambda u, p: u / 2),
    "trace": lambda: optax.trace(0.9),
    "with_extra_args_support": lambda: optax.with_extra_args_support(optax.adam(0.1)),
    "contrib.cocob": lambda: contrib.cocob(0.1),
    "contrib.galore": lambda: contrib.galore(0.1, rank=1),
    "contrib.scale_by_galore": lambda: contrib.scale_by_galore(rank=1),
    "contrib.mechanize": lambda: contrib.mechanize(optax.adam(0.1)),
    "contrib.sam": lambda: contrib.sam(optax.adam(0.1), optax.sgd(0.05), sync_period=2, opaque_mode=False),
    "contrib.schedule_free": lambda: contrib.schedule_free(optax.sgd(0.1), 0.1),
    "contrib.split_real_and_imaginary": lambda: contrib.split_real_and_imaginary(optax.adam(0.1)),
}

#: The extra arguments of a step. Alone, some of Optax's refuse what they do not name; inside our chain all are passed.
EXTRA = {"value": loss, "grad": grad, "value_fn": lambda p: loss}
ASKS: dict[str, dict[str, Any]] = {
    "contrib.sam": {},
    "contrib.sophia": {"obj_fn": lambda p: loss},
}


#: What cannot stand in a chain over these parameters, and why.
LEFT_OUT = {
    "inject_stateful_hyperparams": "deprecated for inject_hyperparams, warns",
    "lookahead": "its parameters are pairs; tested with the wrappers",
    "optimistic_adam": "deprecated for optimistic_adam_v2, warns",
    "measure_with_ema": "gives a measurement in the place of the updates; it stands in optax.monitor, tested below",
    "contrib.scale_by_muon": "takes matrices only; contrib.muon sends it the others masked",
    "contrib.differentially_private_aggregate": "takes a gradient for every example; tested below",
    "contrib.dpsgd": "the same",
}


def _is_factory(module: Any, name: str) -> bool:
    if name.startswith("_"):
        return False
    try:
        fn = getattr(module, name)
    except DeprecationWarning:  # an old address of something that stands in the list under its new one
        return False
    if not callable(fn) or inspect.isclass(fn):
        return False
    try:
        return "GradientTransformation" in str(inspect.signature(fn).return_annotation)
    except ValueError:
        return False


def factories() -> list[str]:
    """Every public function of Optax that says that it returns a transform."""
    with warnings.catch_warnings():
        warnings.simplefilter("error", DeprecationWarning)
        names = [n for n in dir(optax) if _is_factory(optax, n)]
        return [*names, *(f"contrib.{n}" for n in dir(contrib) if _is_factory(contrib, n))]


def make(name: str) -> Any:
    if name in CALLS:
        return CALLS[name]()
    factory = functools.reduce(getattr, name.split("."), optax)
    asks = inspect.signature(factory).parameters
    return factory(learning_rate=0.1) if "learning_rate" in asks else factory()


def run(tx: Any, asks: dict[str, Any], count: int = 3) -> tuple[Any, Any, Any]:
    p = params()
    state = tx.init(p)
    updates: Any = None
    extended = isinstance(tx, optax.GradientTransformationExtraArgs)
    for _ in range(count):
        g = grad(p)
        extra = {name: make_one(p) for name, make_one in asks.items()} if extended else {}
        updates, state = tx.update(g, state, p, **extra)
        p = optax.apply_updates(p, updates)
    return p, updates, state


def assert_same(got: Any, wanted: Any) -> None:
    assert jax.tree.structure(got) == jax.tree.structure(wanted)
    for a, b in zip(jax.tree.leaves(got), jax.tree.leaves(wanted), strict=True):
        if jnp.issubdtype(jnp.asarray(a).dtype, jax.dtypes.prng_key):
            a, b = jax.random.key_data(a), jax.random.key_data(b)
        assert jnp.asarray(a).dtype == jnp.asarray(b).dtype
        np.testing.assert_array_equal(np.asarray(a), np.asarray(b))


def test_the_table_names_optax_s_functions() -> None:
    known = set(factories())
    assert len(known) > 100
    assert set(CALLS) | set(LEFT_OUT) <= known


#: Those that stand for the others where time is short.
QUICK = {
    "adamw",
    "adafactor",
    "novograd",
    "sm3",
    "polyak_sgd",
    "add_noise",
    "apply_if_finite",
    "MultiSteps",
    "flatten",
}


@pytest.mark.parametrize(
    "name",
    [
        pytest.param(n, marks=() if n in QUICK else pytest.mark.slow)
        for n in sorted(set(factories()) - set(LEFT_OUT))
    ],
)
def test_inside_our_chain_it_is_what_it_is_alone(name: str) -> None:
    with optax_s_own():
        alone = run(make(name), ASKS.get(name, EXTRA))
        tx = gx.chain(make(name), gx.identity())
    p, updates, (state, _) = run(tx, {**EXTRA, **ASKS.get(name, {})})
    assert_same((p, updates, state), alone)


#: Ours around anybody's.
WRAPPERS: dict[str, Callable[[Any], Any]] = {
    "masked": lambda tx: gx.masked(tx, "*"),
    "param_groups": lambda tx: gx.param_groups({"*": tx}),
    "named_chain": lambda tx: gx.named_chain(("first", tx), ("second", gx.identity())),
}


@pytest.mark.slow
@pytest.mark.parametrize("name", sorted(set(factories()) - set(LEFT_OUT)))
def test_inside_our_wrappers_it_is_what_it_is_alone(name: str) -> None:
    """Updates and parameters; the state is nested as the wrapper nests it."""
    with optax_s_own():
        alone = run(make(name), ASKS.get(name, EXTRA), 2)
    for wrap in WRAPPERS.values():
        with optax_s_own():
            tx = wrap(make(name))
        got = run(tx, {**EXTRA, **ASKS.get(name, {})}, 2)
        assert_same(got[:2], alone[:2])


STATEFUL = [
    optax.adam,
    optax.adafactor,
    optax.lamb,
    optax.yogi,
    optax.rmsprop,
    optax.adabelief,
    contrib.muon,
    optax.sm3,
]


@pytest.mark.parametrize("factory", STATEFUL, ids=lambda f: f.__name__)
@pytest.mark.parametrize(
    "wrap", [gx.chain, lambda tx: gx.masked(tx, "*"), lambda tx: gx.param_groups({"*": tx})]
)
def test_a_foreign_state_keeps_its_dtypes(factory: Any, wrap: Any) -> None:
    """Alone, Optax's moments drift to float32 when bfloat16 parameters meet float32 gradients, and a scan fails."""
    with optax_s_own():
        foreign = factory(learning_rate=0.1)
        tx = wrap(foreign)
    p = params(jnp.bfloat16)
    g = grad(params())
    state = tx.init(p)
    before = jax.tree.map(lambda x: (x.shape, x.dtype), state)

    def body(state: Any, _: Any) -> Any:
        updates, state = tx.update(g, state, p)
        return state, updates

    updates, _ = tx.update(g, state, p)
    assert {leaf.dtype for leaf in jax.tree.leaves(updates)} == {jnp.dtype(jnp.bfloat16)}
    after, _ = jax.lax.scan(body, state, None, length=3)
    assert jax.tree.map(lambda x: (x.shape, x.dtype), after) == before


def test_the_drift_is_optax_s() -> None:
    p, g = params(jnp.bfloat16), grad(params())
    with optax_s_own():
        tx = optax.adam(0.1)
        _, state = tx.update(g, tx.init(p), p)
    assert {leaf.dtype for leaf in jax.tree.leaves(state[0].mu)} == {jnp.dtype(jnp.float32)}


def test_extra_arguments_reach_a_foreign_link() -> None:
    tx = gx.chain(gx.clip_by_global_norm(100.0), optax.polyak_sgd(f_min=0.0), gx.identity())
    p, g = params(), grad(params())
    updates, _ = tx.update(g, tx.init(p), p, value=loss(p), unknown=3)
    factor = loss(p) / optax.tree.norm(g, squared=True)
    np.testing.assert_allclose(updates["w"], -g["w"] * min(1.0, float(factor)), rtol=1e-5)
    p, _ = train(tx, 60)
    assert fall(p) > 100


def test_a_monitor_measures_between_our_links() -> None:
    measures = {"norm": optax.measure_with_ema(_norm, 0.5, debias=False)}
    tx = gx.chain(gx.clip_by_global_norm(1.0), optax.monitor(measures), gx.scale_by_learning_rate(0.1))
    p = params()
    _, state = tx.update(grad(p), tx.init(p), p)
    assert float(optax.tree.norm(grad(p))) > 1
    assert any(float(x) == pytest.approx(0.5) for x in jax.tree.leaves(state[1]) if x.dtype == jnp.float32)


def test_a_foreign_state_may_look_like_anything() -> None:
    """A state that is a dict of arrays is no pair `(updates, state)` handed over by mistake."""

    def update(updates: Any, state: Any, params: Any = None) -> Any:
        return updates, jax.tree.map(jnp.add, state, updates)

    total = optax.GradientTransformation(lambda p: jax.tree.map(jnp.zeros_like, p), update)
    p = params()
    for tx in (
        gx.chain(total, gx.scale(1.0)),
        gx.chain(total, gx.sgd(0.1)),
        gx.chain(gx.chain(total), gx.clip(1.0)),
    ):
        _, state = tx.update(grad(p), tx.init(p), p)
        _, state = tx.update(grad(p), state, p)
        assert jax.tree.structure(state) == jax.tree.structure(tx.init(p))


def test_gradients_of_examples_are_reduced_before_the_chain() -> None:
    """A chain holds gradients against parameters; what takes a gradient an example stands in front, outside."""
    private = contrib.differentially_private_aggregate(1.0, 0.0, key=jax.random.key(0))
    p = params()
    each = jax.tree.map(lambda g: jnp.stack([g, 3 * g]), grad(p))
    with pytest.raises(ValueError, match=r"leaf 'b'.*\(2, 2\).*\(2,\)"):
        gx.chain(private, gx.sgd(0.1)).update(each, gx.chain(private, gx.sgd(0.1)).init(p), p)
    with optax_s_own():
        aggregated, _ = private.update(each, private.init(p), p)
    tx = gx.sgd(0.1)
    updates, _ = tx.update(aggregated, tx.init(p), p)
    assert jax.tree.structure(updates) == jax.tree.structure(p)
