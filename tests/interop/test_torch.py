"""Runs that torch has begun go on here as there, and back: recorded ones, which need no torch (make_torch_moves.py).

`test_torch_live.py` does the same with runs of its own on models, where torch is.
"""

import functools
import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest

import gradxform as gx
from gradxform.interop import TorchRun, from_torch, to_torch
from gradxform.interop.torch_kinds import KINDS, told_by
from tests.interop.problem import optax_s_own
from tests.reference import Golden

pytestmark = pytest.mark.interop

FILE = Path(__file__).parents[1] / "golden" / "torch_moves.npz"
LAYOUT = {"w": (1, 0), "k": (0, 2, 1)}


@functools.cache
def file() -> tuple[dict[str, Any], dict[str, np.ndarray]]:
    with np.load(FILE) as found:
        return json.loads(str(found["meta"])), {key: found[key] for key in found.files if key != "meta"}


def _firsts() -> list[Any]:
    """All runs; but for the first of each optimizer they are slow."""
    seen: set[str] = set()
    made: list[Any] = []
    for key in file()[0]["runs"]:
        name = key.split("/")[0]
        made.append(pytest.param(key, marks=pytest.mark.slow if name in seen else ()))
        seen.add(name)
    return made


def recorded(key: str) -> tuple[TorchRun, TorchRun]:
    """A run after 50 steps and after 100."""
    meta, arrays = file()
    run = meta["runs"][key]
    values = arrays[key]
    found: dict[int, dict[str, np.ndarray]] = {50: {}, 100: {}}
    at = 0
    for step, name, shape in run["rows"]:
        size = int(np.prod(shape))
        found[step][name] = values[at : at + size].reshape(shape)
        at += size
    return _run(key, run, found[50]), _run(key, run, found[100])


def _run(key: str, run: dict[str, Any], arrays: dict[str, np.ndarray]) -> TorchRun:
    weights = {name.removeprefix("params/"): x for name, x in arrays.items() if name.startswith("params/")}
    names, state = list(weights), {}
    for name, x in arrays.items():
        if name.startswith("state/"):
            _, number, slot = name.split("/")
            state.setdefault(names[int(number)], {})[slot] = x
    groups = [{k: v for k, v in group.items() if k != "params"} | {"names": names} for group in run["groups"]]
    return TorchRun(key.split("/")[0], tuple(groups), state, weights)


def here(name: str, x: np.ndarray) -> np.ndarray:
    return np.transpose(x, LAYOUT[name]) if name in LAYOUT else x


def layout(run: TorchRun) -> dict[str, Any]:
    return {name: axes for name, axes in LAYOUT.items() if name in run.weights}


def go_on(tx: Any, state: Any, params: Any) -> tuple[Any, Any]:
    """The second half."""
    gradients = {
        name: jnp.asarray(np.stack([here(name, g) for g in file()[1][f"gradients/{name}"][50:]]))
        for name in params
    }
    gradients = {name: g.astype(params[name].dtype) for name, g in gradients.items()}

    def step(carry: Any, g: Any) -> Any:
        params, state = carry
        updates, state = tx.update(g, state, params)
        return (gx.apply_updates(params, updates), state), None

    return jax.jit(lambda c: jax.lax.scan(step, c, gradients)[0])((params, state))


@pytest.mark.parametrize("key", _firsts())
@pytest.mark.usefixtures("x64")
def test_half_there_and_half_here_is_the_whole_there(key: str) -> None:
    """The weights to 1e-10 of the way gone; and every array that torch would have, back in its layout, to 1e-9."""
    half, whole = recorded(key)
    like = {name: jnp.zeros(here(name, x).shape) for name, x in half.weights.items()}
    found = from_torch(half, None, like, layout=layout(half))
    params, state = go_on(found.transform, found.state, found.params)
    for name, want in whole.weights.items():
        gone = np.max(np.abs(want - half.weights[name]))
        assert np.max(np.abs(np.asarray(params[name]) - here(name, want))) <= 1e-10 * gone
    back = to_torch(found.transform, state, params, half, layout=layout(half), step=100)
    assert back.groups == half.groups
    assert back.state.keys() == whole.state.keys()
    for name, slots in whole.state.items():
        assert back.state[name].keys() == slots.keys()
        for slot, want in slots.items():
            got = back.state[name][slot]
            assert got.shape == want.shape
            if slot == "prev":  # Rprop only asks for its sign, and that is what we keep
                got, want = np.sign(got), np.sign(want)
            assert np.max(np.abs(got - want), initial=0.0) <= 1e-9 * np.max(np.abs(want), initial=0.0), (
                name,
                slot,
            )


@pytest.mark.parametrize("key", ["SGD/momentum", "AdamW/wd1", "NAdam/default", "Adafactor/eps"])
def test_in_single_precision(key: str) -> None:
    """Here in float32, there in float64. Adafactor's default floor is the epsilon of the dtype, so it has another."""
    half, whole = recorded(key)
    like = {name: jnp.zeros(here(name, x).shape, jnp.float32) for name, x in half.weights.items()}
    found = from_torch(half, None, like, layout=layout(half))
    assert {x.dtype for x in jax.tree.leaves(found.params)} == {jnp.dtype("float32")}
    params, _ = go_on(found.transform, found.state, found.params)
    for name, want in whole.weights.items():
        size = max(np.max(np.abs(want)), np.max(np.abs(half.weights[name])))
        assert np.max(np.abs(np.asarray(params[name]) - here(name, want))) <= 1e-5 * size


def moments(shape: tuple[int, ...] = (3, 2), step: float = 7) -> dict[str, np.ndarray]:
    return {"step": np.float32(step), "exp_avg": np.ones(shape), "exp_avg_sq": np.full(shape, 2.0)}


ADAMW = {"lr": 1e-3, "betas": (0.9, 0.999), "eps": 1e-8, "weight_decay": 0.01, "amsgrad": False}


def adamw(names: tuple[str, ...] = ("head.weight",), **more: Any) -> TorchRun:
    """A run with matrices of 3 by 2."""
    return TorchRun("AdamW", (ADAMW | {"names": list(names)} | more,), {name: moments() for name in names})


KERNEL = {"head": {"kernel": jnp.ones((2, 3))}}
RENAMED = {"*.weight": "*/kernel"}
TURNED = {"*/kernel": (1, 0)}


def test_groups_become_groups() -> None:
    """Those that have the same options are one; one that differs is another; who has made fewer steps, too."""
    names = ["a", "b", "c", "d[0]"]
    groups = ({"names": ["a"]}, {"names": ["b"], "lr": 0.1}, {"names": ["c", "d[0]"]})
    state = {name: moments((2,), 3 if name == "c" else 7) for name in names}
    run = TorchRun("AdamW", tuple(ADAMW | group for group in groups), state)
    params = {name: jnp.ones(2) for name in names}
    found = from_torch(run, None, params)
    assert repr(found.transform).count("adamw") == 3
    chosen = gx.describe(found.transform, params)
    assert "d[0]" in str(chosen)
    _, new = found.transform.update(params, found.state, params)
    assert sorted(
        int(x.count)
        for x in jax.tree.leaves(new, is_leaf=lambda x: isinstance(x, optax.ScaleByAdamState))
        if isinstance(x, optax.ScaleByAdamState)
    ) == [4, 8, 8]
    back = to_torch(found.transform, found.state, params, run)
    assert back.state["c"]["step"] == 3
    assert back.state["d[0]"]["step"] == 7
    assert back.groups == run.groups


def test_what_is_in_no_group_is_frozen_and_buffers_are_left() -> None:
    run = adamw(("head.weight",))
    run.weights.update(
        {"head.weight": np.ones((3, 2)), "body.weight": np.ones((2, 2)), "body.mean": np.ones(2)}
    )
    params = KERNEL | {"body": {"kernel": jnp.zeros((2, 2))}}
    found = from_torch(run, None, params, renamed=RENAMED, layout=TURNED)
    assert found.params["body"]["kernel"].tolist() == [[1, 1], [1, 1]]
    updates, _ = found.transform.update(params, found.state, params)
    assert not np.any(updates["body"]["kernel"])
    assert np.all(np.asarray(updates["head"]["kernel"]))
    assert "body/kernel" in found.notes[0]
    assert "body.mean" in found.notes[1]


def test_a_parameter_that_never_had_a_gradient_is_named() -> None:
    run = TorchRun("AdamW", (ADAMW | {"names": ["a", "b"]},), {"a": moments((2,))})
    (note,) = from_torch(run, None, {"a": jnp.zeros(2), "b": jnp.zeros(2)}).notes
    assert note.startswith("without a step in torch: b (")


def test_a_transform_that_is_given() -> None:
    """A clip in front, Optax's own, eight bits: the moments go where they belong; what would be lost is an error."""
    arguments: dict[str, Any] = {"renamed": RENAMED, "layout": TURNED}
    found = from_torch(
        adamw(),
        gx.chain(gx.clip_by_global_norm(1.0), gx.adamw(gx.warmup_cosine(1e-3, 10, 100))),
        KERNEL,
        **arguments,
        step=7,
    )
    assert found.report is not None
    assert {int(x) for x in jax.tree.leaves(found.state) if jnp.issubdtype(x.dtype, jnp.integer)} == {7}
    optax_s = from_torch(adamw(), optax.adamw(1e-3), KERNEL, **arguments).state
    assert optax_s[0].mu["head"]["kernel"].tolist() == [[1.0] * 3] * 2
    assert float(optax_s[0].nu["head"]["kernel"][0, 0]) == 2.0
    with pytest.raises(ValueError, match="would be lost"):
        from_torch(adamw(), gx.sgd(0.1), KERNEL, **arguments)


def test_an_sgd_that_has_not_moved_yet_and_one_that_has() -> None:
    """torch's first step is not dampened. SGD does not count, but it has a buffer after it."""
    group = {
        "lr": 0.1,
        "momentum": 0.9,
        "dampening": 0.5,
        "nesterov": False,
        "weight_decay": 0.0,
        "names": ["w"],
    }
    params = {"w": jnp.zeros(2)}
    new = from_torch(TorchRun("SGD", (group,), {}), None, params)
    updates, _ = new.transform.update({"w": jnp.ones(2)}, new.state, params)
    assert np.allclose(updates["w"], -0.1)
    old = from_torch(TorchRun("SGD", (group,), {"w": {"momentum_buffer": np.ones(2)}}), None, params)
    updates, _ = old.transform.update({"w": jnp.ones(2)}, old.state, params)
    assert np.allclose(updates["w"], -0.1 * (0.9 + 0.5))


def test_bfloat16_goes_through_a_file(tmp_path: Path) -> None:
    run = adamw()
    run.weights["head.weight"] = np.arange(6).reshape(3, 2).astype(jnp.bfloat16)
    run.save(tmp_path / "run.npz")
    like = {"head": {"kernel": jnp.zeros((2, 3), jnp.bfloat16)}}
    found = from_torch(tmp_path / "run.npz", None, like, renamed=RENAMED, layout=TURNED)
    assert found.params["head"]["kernel"].dtype == jnp.bfloat16
    assert found.params["head"]["kernel"].tolist() == [[0, 2, 4], [1, 3, 5]]
    with pytest.raises(ValueError, match=r"wanted a name that ends in \.npz"):
        run.save(tmp_path / "run.pt")


def test_safetensors_as_well(tmp_path: Path) -> None:
    from safetensors.numpy import save_file

    arrays = {f"state/head.weight/{slot}": np.asarray(x) for slot, x in moments().items()}
    data = {
        "format": 1,
        "optimizer": "AdamW",
        "groups": [ADAMW | {"names": ["head.weight"]}],
        "scheduler": None,
    }
    save_file(arrays, tmp_path / "run.safetensors", metadata={"torch": json.dumps(data)})
    found = from_torch(tmp_path / "run.safetensors", None, KERNEL, renamed=RENAMED, layout=TURNED)
    assert int(found.state[0].count) == 7


SCHEDULERS: dict[str, tuple[dict[str, Any], list[float]]] = {
    "StepLR": ({"step_size": 3, "gamma": 0.5}, [1, 1, 1, 0.5, 0.5, 0.5, 0.25]),
    "MultiStepLR": ({"milestones": {"2": 1, "4": 2}, "gamma": 0.1}, [1, 1, 0.1, 0.1, 0.001, 0.001]),
    "ExponentialLR": ({"gamma": 0.5}, [1, 0.5, 0.25]),
    "CosineAnnealingLR": ({"T_max": 4, "eta_min": 0.0}, [1, 0.8535534, 0.5, 0.1464466]),
    "LinearLR": ({"start_factor": 0.5, "end_factor": 1.0, "total_iters": 2}, [0.5, 0.75, 1, 1]),
    "ConstantLR": ({"factor": 0.5, "total_iters": 2}, [0.5, 0.5, 1, 1]),
    "PolynomialLR": ({"total_iters": 2, "power": 2.0}, [1, 0.25, 0, 0]),
    "CosineAnnealingWarmRestarts": (
        {"T_0": 2, "T_mult": 2, "T_i": 2, "T_cur": 0, "eta_min": 0.0},
        [1, 0.5, 1, 0.8535534, 0.5, 0.1464466, 1],
    ),
}


@pytest.mark.parametrize("name", SCHEDULERS)
def test_a_scheduler_is_a_schedule_that_goes_on_where_it_stands(name: str) -> None:
    """SGD's steps are its rates. The scheduler goes back to where the schedule stands."""
    options, rates = SCHEDULERS[name]
    group = {
        "lr": rates[1],
        "initial_lr": 1.0,
        "momentum": 0,
        "dampening": 0,
        "nesterov": False,
        "weight_decay": 0,
    }
    run = TorchRun("SGD", (group | {"names": ["w"]},), {}, {}, options | {"last_epoch": 1, "_step_count": 2})
    params = {"w": jnp.zeros(())}
    found = from_torch(run, None, params)
    state, went = found.state, []
    for _ in rates[1:]:
        updates, state = found.transform.update({"w": jnp.ones(())}, state, params)
        went.append(-float(updates["w"]))
    assert np.allclose(went, rates[1:], atol=1e-6)
    back = to_torch(found.transform, state, params, run)
    assert back.scheduler is not None
    assert back.scheduler["last_epoch"] == len(rates)
    assert back.groups[0]["lr"] == back.scheduler["_last_lr"][0]
    again = to_torch(found.transform, found.state, params, run)
    assert (again.groups, again.scheduler) == (run.groups, run.scheduler)
    kept = to_torch(found.transform, state, params, run, scheduler=False)
    assert kept.scheduler == run.scheduler
    assert kept.groups == run.groups


def test_a_rate_that_the_scheduler_does_not_give() -> None:
    run = TorchRun(
        "AdamW",
        (ADAMW | {"lr": 0.3, "initial_lr": 1.0, "names": ["w"]},),
        {"w": moments((2,))},
        {},
        {"gamma": 0.5, "last_epoch": 7, "base_lrs": [1.0]},
    )
    with pytest.raises(
        ValueError, match=r"rate stands at 0\.3, its scheduler gives 0\.0078125 after 7 steps"
    ) as error:
        from_torch(run, None, {"w": jnp.zeros(2)})
    assert "steps_per_epoch" in str(error.value)
    assert (
        repr(from_torch(run, None, {"w": jnp.zeros(2)}, scheduler=False).transform)
        == "gx.adamw(0.3, weight_decay=0.01)"
    )


def _file(folder: Path, **changed: Any) -> Path:
    data = {"format": 1, "optimizer": "AdamW", "groups": [], "scheduler": None, "dtypes": {}} | changed
    with open(folder / "run.npz", "wb") as out:
        np.savez(out, torch=np.array(json.dumps(data)))
    return folder / "run.npz"


WRONG: dict[str, tuple[Any, dict[str, Any], str]] = {
    "an unknown optimizer": (
        TorchRun("ASGD", ({"lr": 0.1, "names": []},), {}),
        {},
        "'ASGD' is not one of SGD, Adam",
    ),
    "another class": (
        {"state": {}, "param_groups": [ADAMW | {"params": [0]}]},
        {"optimizer": "SGD", "names": ["head.weight"], "renamed": RENAMED},
        "a group has no 'momentum', which SGD has",
    ),
    "no names": (
        {"state": {}, "param_groups": [ADAMW | {"params": [0]}]},
        {"optimizer": "AdamW"},
        "numbers its 1 param",
    ),
    "no optimizer": ({"state": {}, "param_groups": []}, {}, "does not tell of which optimizer"),
    "names that fit nothing": (
        adamw(("head.weight", "tail.weight")),
        {"renamed": RENAMED, "layout": TURNED},
        r"without a parameter here: 'tail.weight' \(looked for at 'tail/kernel'\)",
    ),
    "a parameter without a name": (adamw(()), {}, "without a name in torch: 'head/kernel'"),
    "two names for one": (
        adamw(("a.weight", "b.weight")),
        {"renamed": lambda name: "head/kernel"},
        "two names for",
    ),
    "a stranger's pattern": (adamw(), {"renamed": {"*.weight": "kernel"}}, "each one stands for"),
    "a shape": (adamw(), {"renamed": RENAMED}, r"\(3, 2\) in torch.*\(the axes \(1, 0\) would fit\)"),
    "a layout for nobody": (
        adamw(),
        {"renamed": RENAMED, "layout": TURNED | {"*/w": (1, 0)}},
        r"takes no parameter of two",
    ),
    "an unknown scheduler": (
        TorchRun(
            "AdamW", (ADAMW | {"names": ["head.weight"]},), {}, {}, {"lr_lambdas": [None], "last_epoch": 0}
        ),
        {"renamed": RENAMED},
        "is not one of .*CosineAnnealingLR",
    ),
    "no saved run": (3, {}, "wanted a path, a TorchRun or"),
}


@pytest.mark.parametrize("name", WRONG)
def test_what_does_not_fit_is_one_error(name: str) -> None:
    saved, arguments, message = WRONG[name]
    with pytest.raises((TypeError, ValueError), match=message) as error:
        from_torch(saved, None, KERNEL, **arguments)
    assert str(error.value).startswith("gx.interop.from_torch")


def test_a_square_matrix_has_to_say_how_it_lies() -> None:
    run = TorchRun("AdamW", (ADAMW | {"names": ["head.weight"]},), {"head.weight": moments((2, 2))})
    params = {"head": {"kernel": jnp.ones((2, 2))}}
    with pytest.raises(ValueError, match="as it is and transposed; say which"):
        from_torch(run, None, params, renamed=RENAMED)
    assert from_torch(run, None, params, renamed=RENAMED, layout={"*": [(0, 1)]}).state is not None


def test_rows_and_columns_of_a_kernel_whose_axes_have_moved() -> None:
    """Adafactor's are of the last two axes in torch, which a convolution's layout takes apart."""
    half, _ = recorded("Adafactor/relative")
    like = {
        name: jnp.zeros(np.transpose(x, (1, 2, 0)).shape if name == "k" else x.shape)
        for name, x in half.weights.items()
    }
    with pytest.raises(
        ValueError, match=r"^gx\.interop\.from_torch.*layout moves the axes of 'k' by \(1, 2, 0\)"
    ):
        from_torch(half, None, like, layout={"k": (1, 2, 0)})


def test_files_that_are_none(tmp_path: Path) -> None:
    with pytest.raises(FileNotFoundError):
        from_torch(tmp_path / "none.npz", None, KERNEL)
    with pytest.raises(ValueError, match="has format 2; this version reads 1"):
        from_torch(_file(tmp_path, format=2), None, KERNEL)
    whole = _file(tmp_path).read_bytes()
    (tmp_path / "run.npz").write_bytes(whole[: len(whole) // 2])
    with pytest.raises(ValueError, match="is no whole"):
        from_torch(tmp_path / "run.npz", None, KERNEL)
    (tmp_path / "run.safetensors").write_bytes(b"nothing")
    with pytest.raises(ValueError, match="is no whole"):
        from_torch(tmp_path / "run.safetensors", None, KERNEL)


def test_what_torch_cannot_take_is_refused() -> None:
    params = {"w": jnp.zeros(2)}
    run = TorchRun("AdamW", (ADAMW | {"names": ["w"]},), {"w": moments((2,))})
    sgd, adam = gx.sgd(0.1, 0.9), gx.adamw(1e-3)
    with pytest.raises(ValueError, match=r"would be lost|keeps what this state does not have"):
        to_torch(sgd, sgd.init(params), params, run)
    group = {"lr": 0.1, "momentum": 0.0, "dampening": 0, "nesterov": False, "weight_decay": 0, "names": ["w"]}
    with pytest.raises(ValueError, match="would be lost"):
        to_torch(adam, adam.init(params), params, TorchRun("SGD", (group,), {}))


def test_a_window_that_is_closed_loses_nothing() -> None:
    """In `gx.accumulate` and `optax.MultiSteps`; one that is open would."""
    params = {"w": jnp.ones(2)}
    run = TorchRun("AdamW", (ADAMW | {"names": ["w"]},), {"w": moments((2,))})
    for tx in (
        gx.accumulate(gx.adamw(1e-3), 2),
        optax.MultiSteps(optax.adamw(1e-3), 2).gradient_transformation(),
    ):
        state = from_torch(run, tx, params).state
        assert to_torch(tx, state, params, run).state["w"]["step"] == 7
        with optax_s_own():
            _, state = tx.update(params, state, params)
        with pytest.raises(ValueError, match=r"would be lost: acc_grads/w(?s:.*)pass as like="):
            to_torch(tx, state, params, run)


def test_a_transform_with_one_count_for_parameters_with_two() -> None:
    params = {"a": jnp.zeros(2), "b": jnp.zeros(2)}
    run = TorchRun("AdamW", (ADAMW | {"names": ["a", "b"]},), {"a": moments((2,)), "b": moments((2,), 3)})
    with pytest.raises(
        ValueError, match=r"different numbers of steps \(7: \['a'\]; 3: \['b'\]\)(?s:.*)gx\.param_groups"
    ):
        from_torch(run, gx.adamw(1e-3), params)
    apart = gx.param_groups({"a": gx.adamw(1e-3), "*": gx.adamw(1e-4)})
    state = from_torch(run, apart, params).state
    assert {int(x) for x in jax.tree.leaves(state) if x.dtype == jnp.int32} == {7, 3}


def test_the_way_back_names_its_own_arguments() -> None:
    params, tx = {"w": jnp.zeros(2)}, gx.adamw(1e-3)
    for like in (3, {"state": {}, "param_groups": [ADAMW | {"params": [0]}]}):
        with pytest.raises(
            (TypeError, ValueError),
            match=r"to_torch\(tx, state, params, like\): like(?s:.*)TorchRun|: like: wanted",
        ):
            to_torch(tx, tx.init(params), params, like)


def test_before_the_first_step_torch_has_nothing() -> None:
    params, tx = {"w": jnp.zeros(2)}, gx.adamw(1e-3)
    run = TorchRun("AdamW", (ADAMW | {"names": ["w"]},), {})
    assert to_torch(tx, tx.init(params), params, run).state == {}


def test_a_state_dict_tells_its_class_and_its_names() -> None:
    """Every class by its options as torch 2.15 writes them; what could be two is asked for."""
    known = json.loads((FILE.parent / "torch_defaults.json").read_text("utf-8"))["optimizers"]
    known["Muon"] = file()[0]["runs"]["Muon/default"]["groups"][0]
    slots = {"Adamax": {"exp_inf"}, "RAdam": {"exp_avg_sq"}}
    later = {"Adam": False, "AdamW": True, "RAdam": False}  # what the constructors of the file do not take
    for name in KINDS:
        options = known[name] | ({"decoupled_weight_decay": later[name]} if name in later else {})
        assert told_by(options, slots.get(name, {"step"})) == name
    assert told_by(ADAMW, {"exp_avg"}) is None
    assert told_by(ADAMW | {"decoupled_weight_decay": True}, {"state1"}) is None
    group = ADAMW | {"decoupled_weight_decay": True, "params": [0], "param_names": ["w"]}
    found = from_torch(
        {"state": {0: moments((2,))}, "param_groups": [group]}, gx.adamw(1e-3), {"w": jnp.zeros(2)}
    )
    assert int(found.state[0].count) == 7


def test_a_state_dict_of_arrays() -> None:
    """And back as one, by number."""
    saved = {"state": {0: moments((2,)), 1: moments((2,))}, "param_groups": [ADAMW | {"params": [0, 1]}]}
    params = {"a": jnp.zeros(2), "b": jnp.zeros(2)}
    found = from_torch(saved, None, params, optimizer="AdamW", names=["b", "a"])
    group = ADAMW | {"names": ["b", "a"]}
    back = to_torch(found.transform, found.state, params, TorchRun("AdamW", (group,), {})).state_dict()
    assert back["param_groups"] == saved["param_groups"]
    assert {k: {s: np.asarray(x).tolist() for s, x in v.items()} for k, v in back["state"].items()} == {
        k: {s: np.asarray(x).tolist() for s, x in v.items()} for k, v in saved["state"].items()
    }


def _eight_bits() -> tuple[Golden, dict[str, Any], TorchRun]:
    """bitsandbytes' AdamW8bit after 21 steps; one matrix in codes, one vector in float32."""
    golden = Golden.load("bitsandbytes.npz")
    options = golden.meta["options"]
    state = {name: {"step": np.asarray(21), **golden.tree(f"adamw/21/state/{name}")} for name in ("w", "b")}
    state["w"] |= {"qmap1": golden.arrays["map/signed"], "qmap2": golden.arrays["map/unsigned"]}
    group = options | {"names": ["w", "b"], "alpha": 0.0, "t_alpha": None, "t_beta3": None}
    return golden, options, TorchRun("AdamW8bit", (group,), state, golden.tree("adamw/21/params"))


def test_a_run_of_bitsandbytes_goes_on() -> None:
    """In float32, whose next step is theirs; and in our own eight bits."""
    golden, options, run = _eight_bits()
    like = {name: jnp.zeros(x.shape, jnp.float32) for name, x in run.weights.items()}
    found = from_torch(run, None, like)
    gradients = {k: jnp.asarray(v) for k, v in golden.tree("adamw/22/gradients").items()}
    updates, state = found.transform.update(gradients, found.state, found.params)
    assert int(state[0].count) == 22
    for name, want in golden.tree("adamw/22/params").items():
        got = np.asarray(found.params[name] + updates[name])
        np.testing.assert_allclose(got, want, rtol=3e-6, atol=1e-7)
    b1, b2 = options["betas"]
    tx = gx.lowbit.quantized(
        gx.adamw(options["lr"], b1, b2, options["eps"], weight_decay=options["weight_decay"])
    )
    ours = from_torch(run, tx, like)
    coded, _ = tx.update(gradients, ours.state, ours.params)
    for name, want in updates.items():
        assert np.max(np.abs(coded[name] - want)) < 0.1 * np.max(np.abs(want))


def test_bitsandbytes_that_is_not_read() -> None:
    _, options, run = _eight_bits()
    like = {name: jnp.zeros(x.shape, jnp.float32) for name, x in run.weights.items()}
    with pytest.raises(ValueError, match="Adam and AdamW are read, got 'Lion8bit'"):
        from_torch(replace(run, optimizer="Lion8bit"), None, like)
    with pytest.raises(ValueError, match="alpha of the group are AdEMAMix's"):
        from_torch(replace(run, groups=(run.groups[0] | {"alpha": 5.0},)), None, like)
    del run.state["w"]["absmax1"]
    with pytest.raises(ValueError, match=r"^gx\.interop\.from_torch.*the entry of 'w' has no absmax1"):
        from_torch(run, None, like)
    tx = gx.adamw(options["lr"])
    with pytest.raises(ValueError, match="bitsandbytes' state is read, not written"):
        to_torch(tx, tx.init(like), like, run)
