"""`save` and `load`: bit for bit, whole or refused, and the file that was there stays."""

import json
import os
import pickle
import struct
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import equinox as eqx
import flax.serialization
import jax
import jax.numpy as jnp
import numpy as np
import optax
import orbax.checkpoint
import pytest
import safetensors.numpy
from flax import nnx
from flax.training.train_state import TrainState

import gradxform as gx
from gradxform import _catalog, interop
from gradxform.interop import CheckpointError, load, save

pytestmark = pytest.mark.interop
ROOT = Path(__file__).parents[2]
PARAMS: Any = {"w": jnp.ones((8, 16)), "layers": [{"b": jnp.ones(3, jnp.bfloat16)}, None], "s": jnp.ones(())}
ADAM = gx.adam(0.1)


@pytest.fixture(autouse=True)
def relaxed() -> Iterator[None]:
    """Optax's own code multiplies floats by integers."""
    with jax.numpy_dtype_promotion("standard"), jax.numpy_rank_promotion("allow"):
        yield


def filled(tree: Any, seed: int = 0) -> Any:
    """The tree with random bits in its arrays: whatever is lost or turned is seen. NaN and -0 are among them."""
    draws = np.random.default_rng(seed)

    def one(x: Any) -> Any:
        if jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            return x
        dtype = np.dtype(x.dtype)
        if dtype == np.bool_:
            return jnp.asarray(draws.integers(0, 2, x.shape), bool)
        raw = draws.integers(0, 256, (*x.shape, dtype.itemsize), dtype=np.uint8)
        return jnp.asarray(raw.view(dtype).reshape(x.shape)) if not x.weak_type else x

    return jax.tree.map(one, tree)


def bits(x: Any) -> bytes:
    x = jax.random.key_data(x) if jnp.issubdtype(x.dtype, jax.dtypes.prng_key) else x
    return np.ascontiguousarray(x).tobytes()


def assert_same(a: Any, b: Any) -> None:
    assert jax.tree.structure(a) == jax.tree.structure(b)
    for (path, x), y in zip(jax.tree_util.tree_flatten_with_path(a)[0], jax.tree.leaves(b), strict=True):
        name = jax.tree_util.keystr(path)
        assert (name, x.dtype, x.shape, bits(x)) == (name, y.dtype, y.shape, bits(y))


def _factories() -> dict[str, Callable[[], Any]]:
    found: dict[str, Callable[[], Any]] = {
        entry.name: entry.factory.example
        for entry in _catalog.entries()
        if entry.kind in ("transform", "recipe", "combinator")
    }
    adamw = gx.adamw(1e-3)
    more: dict[str, Any] = {
        "8 bits": gx.lowbit.quantized(adamw, min_size=16),
        "4 bits": gx.lowbit.quantized(adamw, 4, min_size=16),
        "16 bits": gx.lowbit.quantized(adamw, 16, min_size=16),
        "master": gx.lowbit.exact_master(adamw),
        "wrappers": gx.accumulate(gx.guard(gx.average_params(gx.tunable(adamw, "learning_rate"), 0.9)), 4),
        "optax": optax.chain(optax.clip_by_global_norm(1.0), optax.adamw(1e-3)),
        "optax noise": optax.add_noise(0.1, 0.5, jax.random.key(1)),
        "optax inject": optax.inject_hyperparams(optax.adam)(optax.cosine_decay_schedule(1.0, 9)),
        "optax partition": optax.partition({"a": optax.adam(0.1)}, lambda p: jax.tree.map(lambda _: "a", p)),
    }
    return found | {name: (lambda tx=tx: tx) for name, tx in more.items()}


FACTORIES = _factories()


def state_of(name: str) -> tuple[Any, Any, Any]:
    """Transform, parameters and a state full of bits. What wants another tree gets one."""
    tx = FACTORIES[name]()
    for params in (PARAMS, {"w": jnp.ones((8, 16)), "b": jnp.ones(3)}, {"w": jnp.ones((8, 16))}):
        try:
            return tx, params, filled(tx.init(params))
        except (TypeError, ValueError, KeyError):
            continue
    raise AssertionError(f"{name}: no parameters for it")


@pytest.mark.parametrize("name", FACTORIES)
def test_every_state_comes_back_to_the_bit(name: str, tmp_path: Path) -> None:
    tx, params, state = state_of(name)
    save(tmp_path / "run", tx, state, params, extra={"step": 3, "loss": [0.5]})
    found = load(tmp_path / "run", tx, params)
    assert_same(found.state, state)
    assert_same(found.params, params)
    assert found.extra == {"step": 3, "loss": [0.5]}
    assert found.transform == tx or not isinstance(tx, gx.GradientTransformation)
    roles = {entry.get("role") for entry in found.manifest["arrays"].values() if "field" in entry}
    assert None not in roles
    try:
        again = gx.from_json(gx.to_json(tx))
    except (TypeError, ValueError):  # it holds a function, which no file names
        with pytest.raises(CheckpointError, match="pass the transform that made the state"):
            load(tmp_path / "run", None, params)
    else:
        assert again == tx
        assert_same(load(tmp_path / "run", None, params).state, state)


@pytest.mark.parametrize("name", FACTORIES)
def test_other_libraries_bring_every_state_back(name: str, tmp_path: Path) -> None:
    """What programs use now: msgpack, Equinox's leaves, pickle."""
    _, _, state = state_of(name)
    if any(jnp.issubdtype(x.dtype, jax.dtypes.prng_key) for x in jax.tree.leaves(state)):
        return  # they know no typed keys; `save` does
    empty = jax.tree.map(jnp.zeros_like, state)
    if name != "named_chain":  # its state is Optax's OrderedDict, which Flax does not write
        read = flax.serialization.from_bytes(empty, flax.serialization.to_bytes(state))
        assert_same(jax.tree.map(jnp.asarray, read), state)
    eqx.tree_serialise_leaves(tmp_path / "leaves.eqx", state)
    assert_same(eqx.tree_deserialise_leaves(tmp_path / "leaves.eqx", empty), state)
    assert_same(pickle.loads(pickle.dumps(state)), state)


@pytest.mark.slow
@pytest.mark.parametrize("name", FACTORIES)
def test_orbax_brings_every_state_back(name: str, tmp_path: Path) -> None:
    _, _, state = state_of(name)
    if (
        not jax.tree.leaves(state) or name == "optax noise"
    ):  # Orbax saves no empty trees, and no typed keys like this
        return
    with orbax.checkpoint.StandardCheckpointer() as saver:  # in the background, waited for at the end
        saver.save(tmp_path / "1", state)
    with orbax.checkpoint.StandardCheckpointer() as saver:
        assert_same(saver.restore(tmp_path / "1", jax.tree.map(jnp.zeros_like, state)), state)


def test_a_manifest_stands_beside_arrays_of_orbax(tmp_path: Path) -> None:
    tx, params, state = state_of("8 bits")
    args = orbax.checkpoint.args
    known = interop.manifest(tx, state, extra={"step": 1})
    with orbax.checkpoint.CheckpointManager(tmp_path) as manager:
        manager.save(1, args=args.Composite(state=args.StandardSave(state), manifest=args.JsonSave(known)))
    with orbax.checkpoint.CheckpointManager(tmp_path) as manager:
        read = manager.restore(1, args=args.Composite(manifest=args.JsonRestore())).manifest
        assert read == known
        interop.check_manifest(read, tx, params)
        with pytest.raises(CheckpointError, match=r"state/0/mu/w/codes has codes \(SignedCodec"):
            interop.check_manifest(
                read, gx.lowbit.quantized(gx.adamw(1e-3), map="dynamic", min_size=16), params
            )
        assert gx.from_json(json.dumps(read["transform"])) == tx


def test_training_loops_and_boxes(tmp_path: Path) -> None:
    model = nnx.Linear(2, 3, rngs=nnx.Rngs(0))
    tx = gx.adamw(0.1)
    optimizer = nnx.Optimizer(model, tx, wrt=nnx.Param)
    params = nnx.state(model, nnx.Param)
    save(tmp_path / "nnx", tx, optimizer, params)
    found = load(tmp_path / "nnx", tx, params)
    assert_same(found.state, tx.init(params))
    assert jax.tree.structure(found.params) == jax.tree.structure(params)
    train = TrainState.create(apply_fn=len, params={"w": jnp.ones(2)}, tx=tx)
    save(tmp_path / "linen", tx, train, train.params)
    assert_same(load(tmp_path / "linen", tx, train.params).state, train.opt_state)


def test_on_another_mesh(tmp_path: Path) -> None:
    tx = gx.chain(gx.clip_by_global_norm(1.0), gx.adamw(1e-3))
    mesh, other = jax.make_mesh((4, 2), ("x", "y")), jax.make_mesh((8,), ("z",))
    params = {"w": jax.device_put(jnp.arange(64.0).reshape(8, 8), jax.NamedSharding(mesh, jax.P("x", "y")))}
    state = jax.tree.map(lambda x: x + 1, gx.sharding.init_sharded(tx, params))
    save(tmp_path / "run", tx, state, params)
    there = {
        "w": jax.ShapeDtypeStruct((8, 8), "float32", sharding=jax.NamedSharding(other, jax.P(None, "z")))
    }
    found = load(tmp_path / "run", tx, there)
    assert found.params["w"].sharding == found.state[1][0].mu["w"].sharding == there["w"].sharding
    assert_same(jax.device_get(found.state), jax.device_get(state))


def test_leaves_are_where_and_what_init_makes(tmp_path: Path) -> None:
    tx = optax.chain(optax.add_noise(0.1, 0.5, jax.random.key(1)), optax.trace(0.9))
    state = tx.init(PARAMS)
    save(tmp_path / "run", tx, state)
    found = load(tmp_path / "run", tx, PARAMS)
    assert found.params is None
    for x, y in zip(jax.tree.leaves(found.state), jax.tree.leaves(state), strict=True):
        assert (x.aval.weak_type, x.sharding) == (y.aval.weak_type, y.sharding)


# ------------------------------------------------------------------------------------- what is refused


def saved(folder: Path, tx: Any = ADAM, **options: Any) -> Path:
    path = folder / "run.safetensors"
    save(path, tx, filled(tx.init(PARAMS)), **options)
    return path


@pytest.mark.parametrize(
    ("tx", "words"),
    [
        (gx.adam(0.2), r"saved by gx.adam\(0.1\), this is gx.adam\(0.2\)\n  strict=False loads"),
        (
            gx.sgd(0.1, momentum=0.9),
            r"missing in it: 'state/0/trace/layers/0/b'.*\n  not wanted: 'state/0/count'",
        ),
        (gx.chain(gx.clip(1.0), gx.adam(0.1)), "missing in it: 'state/1/0/count'"),
        (gx.adamax(0.1), r"saved by gx.adam\(0.1\), this is gx.adamax\(0.1\)"),
        (gx.adam(0.1, mu_dtype="bfloat16"), "state/0/mu/s has dtype float32, wanted bfloat16"),
        (optax.adam(0.1), r"saved by gx.adam\(0.1\), this is gx.foreign"),
    ],
)
def test_another_transform_is_refused(tx: Any, words: str, tmp_path: Path) -> None:
    path = saved(tmp_path)
    with pytest.raises(CheckpointError, match=words):
        load(path, tx, PARAMS)


def test_a_changed_number_can_be_allowed(tmp_path: Path) -> None:
    path = saved(tmp_path)
    assert_same(load(path, gx.adam(0.2), PARAMS, strict=False).state, load(path, ADAM, PARAMS).state)
    with pytest.raises(CheckpointError, match="missing in it"):
        load(path, gx.sgd(0.1, momentum=0.9), PARAMS, strict=False)


def test_other_parameters_are_refused(tmp_path: Path) -> None:
    path = saved(tmp_path, params=PARAMS)
    with pytest.raises(
        CheckpointError, match=r"mu/w has shape \[8, 16\], wanted \[8, 4\]\n  it was saved from other"
    ):
        load(path, ADAM, {**PARAMS, "w": jnp.ones((8, 4))})
    with pytest.raises(CheckpointError, match="missing in it: 'state/0/mu/more', 'state/0/nu/more'"):
        load(path, ADAM, {**PARAMS, "more": jnp.ones(2)})
    path = saved(tmp_path, gx.sgd(0.1), params=PARAMS)  # its state has no arrays that could tell
    with pytest.raises(
        CheckpointError, match=r"leaf 'params/w' has shape \[8, 16\] in the file, wanted \[8, 4\]"
    ):
        load(path, None, {**PARAMS, "w": jnp.ones((8, 4))})
    with pytest.raises(
        CheckpointError, match="the file has no params/more; it was saved from other parameters"
    ):
        load(path, None, {**PARAMS, "more": jnp.ones(2)})


def test_a_transform_without_text_has_to_be_passed(tmp_path: Path) -> None:
    path = saved(tmp_path, optax.adam(0.1))
    with pytest.raises(
        CheckpointError, match=r"does not say how to make gx\.foreign.*\n?.*pass the transform"
    ):
        load(path, None, PARAMS)
    assert load(path, optax.adam(0.1), PARAMS).manifest["transform"] is None


def _with_manifest(path: Path, change: Callable[[dict[str, Any]], None], crc: bool = True) -> None:
    """Writes the file anew with another manifest, whose checksum is right unless that is not wanted."""
    import zlib

    raw = path.read_bytes()
    known = json.loads(json.loads(raw[8 : 8 + struct.unpack("<Q", raw[:8])[0]])["__metadata__"]["gradxform"])
    arrays = safetensors.numpy.load_file(path)
    change(known)
    text = json.dumps(known)
    metadata = {"gradxform": text, "gradxform_crc32": str(zlib.crc32(text.encode()) + (not crc))}
    safetensors.numpy.save_file(arrays, path, metadata)


F32 = {"w": jnp.ones((8, 4))}  # NumPy's reader of safetensors knows no bfloat16


def test_files_of_others_of_the_future_and_changed_ones(tmp_path: Path) -> None:
    path = tmp_path / "run.safetensors"
    safetensors.numpy.save_file({"w": np.ones(2, np.float32)}, path)
    with pytest.raises(CheckpointError, match="without a manifest of gradxform: another program wrote it"):
        load(path, ADAM, F32)
    for change, crc, words in (
        (
            lambda m: m.update(format=2, versions={"gradxform": "9.0"}),
            True,
            r"format 2 by gradxform 9\.0, this one reads up to 1",
        ),
        (lambda m: m.update(format="x"), True, "format is 'x', wanted a whole number"),
        (lambda m: m.pop("arrays"), True, "wanted what gx.interop.manifest returned"),
        (
            lambda m: m["arrays"].pop("state/0/mu/w"),
            True,
            "the file was changed: its manifest and its arrays differ",
        ),
        (
            lambda m: m["arrays"]["state/0/mu/w"].update(crc32=1),
            True,
            "state/0/mu/w is not what was saved: its checksum",
        ),
        (lambda m: m["extra"], False, "the manifest is damaged: its checksum differs"),
    ):
        save(path, ADAM, ADAM.init(F32))
        _with_manifest(path, change, crc)
        with pytest.raises(CheckpointError, match=words):
            load(path, ADAM, F32)
    for content, words in (
        (b"", "the file is empty"),
        (b"PK\x03\x04" + b"0" * 90, "this is no file of gx.interop.save"),
    ):
        path.write_bytes(content)
        with pytest.raises(CheckpointError, match=words):
            load(path, ADAM, F32)
    with pytest.raises(FileNotFoundError):
        load(tmp_path / "nothing", ADAM, F32)


def test_no_damage_passes(tmp_path: Path) -> None:
    """Cut off anywhere, or with another byte anywhere: refused in one way, or the byte did not matter."""
    path = tmp_path / "run.safetensors"
    state = filled(ADAM.init(F32))
    save(path, ADAM, state)
    raw, draws = path.read_bytes(), np.random.default_rng(0)
    for length in draws.integers(0, len(raw), 60):
        path.write_bytes(raw[:length])
        with pytest.raises(CheckpointError):
            load(path, ADAM, F32)
    harmless = 0
    for place in [*range(16), *draws.integers(0, len(raw), 240)]:
        changed = bytearray(raw)
        changed[place] ^= 1 << int(draws.integers(8))
        path.write_bytes(changed)
        try:
            assert_same(load(path, ADAM, F32).state, state)
            harmless += 1
        except CheckpointError:
            continue
    assert harmless < 10  # a dtype's name in the header, of which the manifest has another
    path.write_bytes(raw + b"x")
    with pytest.raises(CheckpointError, match="not whole"):
        load(path, ADAM, F32)


def test_a_save_that_fails_leaves_the_file_that_was_there(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = saved(tmp_path)
    before = path.read_bytes()

    def half(arrays: Any, place: Path, metadata: Any) -> None:
        Path(place).write_bytes(before[:100])
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(safetensors.numpy, "save_file", half)
    with pytest.raises(OSError, match="No space left"):
        saved(tmp_path)
    assert path.read_bytes() == before
    assert os.listdir(tmp_path) == [path.name]
    with pytest.raises(TypeError, match="JSON cannot hold"):
        saved(tmp_path, extra={"x": jnp.ones(2)})
    with pytest.raises(TypeError, match=r"state: wanted what tx\.init or tx\.update returned"):
        save(path, ADAM, ADAM)
    with pytest.raises(OSError, match="that is a folder"):
        save(tmp_path, ADAM, ADAM.init(F32))
    with pytest.raises(TypeError, match="state/0/count is being traced; save outside of jit"):
        jax.jit(lambda s: save(path, ADAM, s))(ADAM.init(F32))
    assert path.read_bytes() == before


def test_others_may_read_it_as_any_file_of_this_user(tmp_path: Path) -> None:
    (tmp_path / "plain").write_bytes(b"")
    for _ in range(2):
        path = saved(tmp_path)
        assert path.stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_without_safetensors_it_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "safetensors", None)
    with pytest.raises(
        ImportError,
        match=r"safetensors is not installed; pip install 'gradxform\[checkpoint\]'",
    ):
        saved(tmp_path)


def _killed(folder: Path, kills: int) -> dict[str, int]:
    command = [sys.executable, str(Path(__file__).with_name("killed_saver.py")), str(folder), str(kills)]
    environment = {**os.environ, "PYTHONPATH": str(ROOT)}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, timeout=300, check=False)
    assert done.returncode == 0, done.stdout + done.stderr
    return json.loads(done.stdout)


@pytest.mark.slow
@pytest.mark.skipif(not hasattr(os, "fork"), reason="kills a fork")
def test_killed_at_fifty_moments_the_last_complete_one_loads(tmp_path: Path) -> None:
    seen = _killed(tmp_path, 50)
    assert seen["kills"] == 50
    assert seen["cut"] >= 10, "hardly a kill came while a file was being written"
    assert seen["saves"] >= 50
    found = load(tmp_path / "run.safetensors", None, {"w": jax.ShapeDtypeStruct((300_000,), "float32")})
    assert int(found.state[0].count) == found.extra["step"] == seen["saves"]


def test_a_role_that_was_declared_after_a_file_was_written():
    """What stood there as `other` is the same field of the same class; another role is another meaning."""
    tx, params = gx.adam(0.1), {"w": jnp.ones((2, 3))}
    data = interop.manifest(tx, tx.init(params))
    names = [name for name in data["arrays"] if "/mu" in name]
    for role, field, fits in (
        ("other", None, True),
        ("other", "TheirState.mu", False),
        ("factor", None, False),
    ):
        arrays = {name: dict(entry) for name, entry in data["arrays"].items()}
        for name in names:
            arrays[name] |= {"role": role} | ({"field": field} if field else {})
        told = {**data, "arrays": arrays}
        if fits:
            interop.check_manifest(told, tx, params)
        else:
            with pytest.raises(interop.CheckpointError, match="role"):
                interop.check_manifest(told, tx, params)
