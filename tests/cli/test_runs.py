"""Files of `gx.interop.save` on the command line: what is in them, taken into another transform, written, refused."""

import json
import re
import struct
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import serialization

import gradxform as gx
from gradxform import interop
from gradxform.cli.runs import read_run

from .test_commands import call, refusal

safetensors = pytest.importorskip("safetensors.numpy")

#: More than ten layers in a list: a dictionary of JAX's has 10 before 2.
PARAMS = {"layers": [jnp.full((2, 3), float(i)) for i in range(11)], "half": jnp.ones(2, jnp.bfloat16)}


def stepped(tx: Any, params: Any = PARAMS) -> Any:
    grads = jax.tree.map(lambda p: jnp.cos(p) / 3, params)
    return tx.update(grads, tx.init(params), params)[1]


def saved(folder: Path, tx: Any, params: Any = PARAMS, with_params: bool = True) -> tuple[Path, Any]:
    path, state = folder / "run.safetensors", stepped(tx, params)
    path.unlink(missing_ok=True)
    interop.save(path, tx, state, params if with_params else None, extra={"step": 3, "tags": ["a", None]})
    return path, state


def same(a: Any, b: Any) -> None:
    pairs = zip(jax.tree.leaves(a), jax.tree.leaves(b), strict=True)
    assert all(x.dtype == y.dtype and np.asarray(x).tobytes() == np.asarray(y).tobytes() for x, y in pairs)


def test_inspect_shows_roles_and_who_saved_it(tmp_path: Path) -> None:
    tx = gx.lowbit.quantized(gx.adamw(1e-3), min_size=4)
    params = {"w": jnp.linspace(0.0, 1.0, 256), "half": jnp.ones(2, jnp.bfloat16)}
    path, state = saved(tmp_path, tx, params)
    done = call("inspect", str(path), "--json")
    assert done.exit_code == 0, done.output
    data = json.loads(done.output)
    rows = {row["path"]: row for row in data["rows"]}
    assert (data["saved_by"], data["extra"]) == (repr(tx), {"step": 3, "tags": ["a", None]})
    assert len(rows) == len(jax.tree.leaves((state, params)))
    assert (rows["state/0/count"]["role"], rows["state/0/count"]["value"]) == ("count", 1)
    assert rows["state/0/nu/w/codes"]["role"] == "second moment"
    assert (rows["params/half"]["dtype"], rows["params/half"]["rms"]) == ("bfloat16", 1.0)
    assert f"\nsaved by {tx!r}, gradxform " in call("inspect", str(path)).output

    ill = {"w": jnp.array([1.0, jnp.nan])}
    interop.save(path, gx.sgd(0.1, momentum=0.9), gx.sgd(0.1, momentum=0.9).init(ill), ill)
    assert json.loads(call("inspect", str(path), "--json").output)["first_nonfinite"] == "params/w"


def test_inspect_reads_safetensors_of_others(tmp_path: Path) -> None:
    path = tmp_path / "model.bin2"  # by its first bytes, whatever it is called
    safetensors.save_file({"layer.0.weight": np.array([1, np.inf], np.float16), "step": np.asarray(7)}, path)
    done = call("inspect", str(path), "--json")
    assert done.exit_code == 1
    data = json.loads(done.output)
    rows = {row["path"]: row for row in data["rows"]}
    assert "saved_by" not in data
    assert (data["first_nonfinite"], rows["step"]["value"]) == ("layer.0.weight", 7)
    path.write_bytes(path.read_bytes()[:-1])
    assert "model.bin2: the file is not whole: " in refusal("inspect", str(path))


@pytest.mark.slow
def test_a_run_is_taken_into_another_transform(tmp_path: Path) -> None:
    tx, new = gx.adamw(1e-3), gx.guard(gx.average_params(gx.lion(1e-3), 0.9))
    path, state = saved(tmp_path, tx)
    wanted, report = gx.restore_into(new, PARAMS, state, saved_by=tx)
    text = "guard(average_params(lion(1e-3), 0.9))"
    dry = call("convert", str(path), "--into", text)
    assert (dry.exit_code, dry.output) == (0, f"{report}\nnothing is written without --out\n")
    assert [p.name for p in tmp_path.iterdir()] == [path.name]

    out = tmp_path / "new.safetensors"
    done = call("convert", str(path), "--into", text, "-o", str(out))
    assert done.exit_code == 0, done.output
    found = interop.load(out, new, PARAMS)
    same((found.state, found.params), (wanted, PARAMS))
    assert found.extra == {"step": 3, "tags": ["a", None]}
    assert sorted(p.name for p in tmp_path.iterdir()) == ["new.safetensors", path.name]
    assert "is there already" in refusal("convert", str(path), "--into", text, "-o", str(out))

    # As a msgpack, and back.
    between = tmp_path / "new.msgpack"
    assert call("convert", str(path), "--into", text, "-o", str(between)).exit_code == 0
    back = tmp_path / "back.safetensors"
    done = call("convert", str(between), "--into", text, "-o", str(back))
    assert done.exit_code == 0, done.output
    again = interop.load(back, new, PARAMS)
    same((again.state, again.params), (wanted, PARAMS))


@pytest.mark.slow
def test_codes_and_the_order_of_leaves_need_no_word(tmp_path: Path) -> None:
    """The file says who made its codes, and in which order its parameters stand."""
    params = {"layers": [jnp.full(i + 1, float(i)) for i in range(11)]}
    path, state = saved(tmp_path, gx.adamw(1e-3), params)
    found = read_run(path)
    assert [x.shape for x in jax.tree.leaves(found.like())] == [(i + 1,) for i in range(11)]
    assert len(jax.tree.leaves(found.tree["params"])[2]) == 11  # not so in a dictionary: 10 comes before 2
    packed = gx.fused.pack(params, tx := gx.fused.bucketed(gx.adamw(1e-3)))
    interop.save(path, tx, tx.init(packed), packed)
    assert call("inspect", str(path)).exit_code == 0
    assert "wanted gx.fused.Buckets" in refusal("convert", str(path), "--into", "adamw(1e-3)")
    tx = gx.lowbit.quantized(gx.adamw(1e-3), min_size=4)
    params = {"w": jnp.linspace(-1.0, 1.0, 256)}
    path, state = saved(tmp_path, tx, params, with_params=False)
    words = ("convert", str(path), "--into", "adamw(1e-3)")
    assert "the checkpoint has no params: say --params" in refusal(*words)
    words = (*words, "--params", '{"w": [256]}', "-o")
    assert "wide.npz: .npz has no None (extra/tags/1)" in refusal(*words, str(tmp_path / "wide.npz"))
    out = tmp_path / "wide.msgpack"
    done = call(*words, str(out))
    assert done.output.startswith("matched 3, reset 0, dropped 0\n"), done.output
    read = serialization.msgpack_restore(out.read_bytes())
    np.testing.assert_array_equal(read["state"]["0"]["mu"]["w"], gx.lowbit.dequantized(state)[0].mu["w"])
    assert read["extra"]["step"] == 3


def test_bad_files_are_told_in_one_line(tmp_path: Path) -> None:
    path, _ = saved(tmp_path, gx.adamw(1e-3))
    raw = path.read_bytes()
    start = 8 + struct.unpack("<Q", raw[:8])[0]
    damaged = bytearray(raw)
    damaged[start + 40] ^= 1
    metadata = bytearray(raw)
    metadata[raw.index(b"adamw")] ^= 1
    for content, said in (
        (raw[:-1], "the file is not whole: .*; it was cut off or overwritten"),
        (raw[: start - 5], "it ends in its header; it was cut off"),
        (b"", "the file is empty"),
        (bytes(damaged), "is not what was saved: its checksum differs; the file was damaged"),
        (bytes(metadata), "the manifest is damaged"),
    ):
        path.write_bytes(content)
        for words in (("inspect", str(path)), ("convert", str(path), "--into", "adamw(1e-3)")):
            line = refusal(*words)
            assert line.startswith(f"{path}: ")
            assert re.search(said, line), line


def test_what_a_file_does_not_say_or_cannot_hold(tmp_path: Path) -> None:
    import optax

    params = {"w": jnp.ones((2, 3))}
    path = tmp_path / "run.safetensors"
    interop.save(path, optax.adam(1e-3), optax.adam(1e-3).init(params), params)
    words = ("convert", str(path), "--into", "adam(1e-3)")
    line = refusal(*words)
    assert line.startswith(f"{path}: the file does not say how to make gx.foreign")
    assert line.endswith("; say --saved-by TRANSFORM")
    assert call(*words, "--saved-by", "optax.adam(1e-3)").output.startswith("matched 3, reset 0, dropped 0\n")
    path, _ = saved(tmp_path, gx.adamw(1e-3), params)
    assert "saved by gx.adamw(0.001), whose state is not that of gx.sgd" in refusal(
        *words, "--saved-by", "sgd(0.1, 0.9)"
    )
    assert "mu/w has shape [2, 3], wanted [5]" in refusal(*words, "--params", '{"w": [5]}')
    source, out = tmp_path / "more.npz", tmp_path / "out.safetensors"
    ones = np.ones(2, np.float32)
    arrays: dict[str, Any] = {"params/w": ones, "state/0/trace/w": ones, "rng": np.ones(2)}
    np.savez(source, **arrays)
    words = ("convert", str(source), "--into", "sgd(0.1, 0.9)", "-o", str(out))
    assert "there is an array float64[2]; write a .msgpack" in refusal(*words)
    assert sorted(p.name for p in tmp_path.iterdir()) == ["more.npz", path.name]
