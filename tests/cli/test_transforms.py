"""Transforms as words: what `repr` writes is read back, and what no transform is says so."""

import re
from pathlib import Path
from typing import Any

import numpy as np
import optax
import pytest

import gradxform as gx
from gradxform._catalog import entries
from gradxform.cli.transforms import NotRead, read_transform


@pytest.mark.parametrize("entry", entries(), ids=lambda entry: entry.name)
def test_what_repr_writes_is_read_back(entry: Any) -> None:
    """Whole transforms as they are; schedules, masks and the like as arguments of one."""
    made = entry.example
    if isinstance(made, gx.GradientTransformation):
        tx = made
    elif entry.kind == "schedule":
        tx = gx.scale_by_learning_rate(made)
    elif entry.kind == "mask":
        tx = gx.masked(gx.scale(0.5), made)
    else:
        tx = gx.project(gx.sgd(0.1), "*", made)
    if "gradxform._" in repr(tx):
        pytest.skip("the sample holds a function of a private module, which only a program can name")
    assert read_transform(repr(tx)) == tx


@pytest.mark.parametrize(
    ("text", "wanted"),
    [
        ("adamw(1e-3)", gx.adamw(1e-3)),
        (" gradxform.adamw(3 * 1e-4, weight_decay=-(-0.1)) ", gx.adamw(3 * 1e-4, weight_decay=0.1)),
        (
            "chain(clip_by_global_norm(1.0), adamw(1e-3))",
            gx.chain(gx.clip_by_global_norm(1.0), gx.adamw(1e-3)),
        ),
        ("lowbit.quantized(adamw(1e-3), 4)", gx.lowbit.quantized(gx.adamw(1e-3), 4)),
        (
            "gx.lowbit.quantized(sgd(0.1, momentum=0.9), paths={'*/head': 16}, wide=('a', 'b'))",
            gx.lowbit.quantized(gx.sgd(0.1, momentum=0.9), paths={"*/head": 16}, wide=("a", "b")),
        ),
        ("adamw(1e-3, mu_dtype=jnp.bfloat16)", gx.adamw(1e-3, mu_dtype="bfloat16")),
        ("adamw(warmup_cosine(1e-3, 10, 100))", gx.adamw(gx.warmup_cosine(1e-3, 10, 100))),
        ("masked(sgd(0.1), re.compile('w.*'))", gx.masked(gx.sgd(0.1), re.compile("w.*"))),
        (gx.to_json(gx.lion(1e-4)), gx.lion(1e-4)),
    ],
)
def test_calls_and_json_are_read(text: str, wanted: Any) -> None:
    assert read_transform(text) == wanted


def test_names_of_optax_are_read() -> None:
    assert callable(read_transform("optax.adamw(1e-3)").update)
    assert callable(read_transform("optax.contrib.muon(1e-3)").update)
    assert callable(read_transform("scale_by_novograd()").update)  # not ours, so Optax's
    assert read_transform("adam(1e-3)") == gx.adam(1e-3)  # ours before Optax's


def test_files_and_objects_of_programs_are_read(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (tmp_path / "tx.json").write_text(gx.to_json(gx.adam(1e-3)), encoding="utf-8")
    assert read_transform("tx.json") == gx.adam(1e-3)
    (tmp_path / "their_training.py").write_text(
        "import gradxform as gx\n"
        "tx = gx.adam(1e-3)\n"
        "def make():\n    return tx\n"
        "def needs(rate):\n    return tx\n"
        "class Settings:\n    tx = tx\n",
        encoding="utf-8",
    )
    for name in ("tx", "make", "Settings.tx"):
        assert read_transform(f"their_training:{name}") == gx.adam(1e-3)
    with pytest.raises(NotRead, match=r"their_training:needs: called without arguments: TypeError: .*'rate'"):
        read_transform("their_training:needs")
    with pytest.raises(NotRead, match="the module their_training has no 'ty'"):
        read_transform("their_training:ty")
    (tmp_path / "broken_training.py").write_text("1 / 0\n", encoding="utf-8")
    with pytest.raises(NotRead, match="broken_training cannot be imported: ZeroDivisionError"):
        read_transform("broken_training:tx")


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("adamv(1e-3)", r"gradxform has no 'adamv'; did you mean gx\.adam"),
        ("adamw(lr=1e-3)", r"gx\.adamw\(\) has no argument 'lr'; here it is called learning_rate"),
        ("adamw(b1=2.0, learning_rate=1e-3)", r"gx\.adamw\(b1=2\.0\)|gx\.scale_by_adam\(b1=2\.0\)"),
        ("adamw", r"adamw is no transform but the function adamw; call it: adamw\(\.\.\.\)"),
        ("3e-4", "3e-4 is no transform but float 0.0003"),
        ("optax", "optax is no transform but the module optax"),
        ("adamw(1e-3", "not a call as Python has it"),
        ("", "not a call as Python has it"),
        ("[x for x in y]", "only calls of gradxform and optax, and literals, can stand here"),
        ("(lambda: 1)()", "a name was wanted here"),
        ("adamw(1e-3) if True else 1", "only calls of gradxform and optax"),
        ("adamw(f'{1}')", "only calls of gradxform and optax"),
        ("adamw(*[1e-3])", "written one by one, without stars"),
        ("adamw(**{'learning_rate': 1})", "written one by one, without stars"),
        ("adamw({**{}})", "only calls of gradxform and optax"),
        ("adamw(9**9**9)", "only calls of gradxform and optax"),
        ("adamw(1 / 0)", "1 and 0: division by zero"),
        ("adamw(-'a')", "'a': wanted a number, got str 'a'"),
        ("adamw('a' * 9)", "'a': wanted a number"),
        ("__import__('os').system('true')", "a name was wanted here"),
        ("eval('1')", "gradxform has no 'eval'"),
        ("open('x')", "gradxform has no 'open'"),
        ("gx.__builtins__", "no"),
        ("optax.jax.devices()", "no 'optax.jax.devices'|no name"),
        ("optax.adamw.__globals__", "no"),
        ("gx.lowbit.jnp.ones(3)", "no"),
        ("np.load('x')", "no 'np.load'|no name"),
        ("optax.adamw()", r"optax\.adamw\(\.\.\.\): .*learning_rate"),
        ("build(1)", "build cannot be called: it is the module gradxform.build"),
        ("nowhere.json", "there is no file nowhere.json"),
        ("nowhere_at_all:tx", "nowhere_at_all:tx: No module named 'nowhere_at_all'"),
        ("{broken", "the text: from_json: not JSON"),
        ('{"a": 1}', "not a gradxform transform"),
    ],
)
def test_what_is_no_transform_says_so(text: str, message: str) -> None:
    with pytest.raises(NotRead, match=message):
        read_transform(text)


def test_nothing_is_evaluated(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What could write a file is not even looked up."""
    monkeypatch.chdir(tmp_path)
    for text in (
        "np.save('x', 1)",
        "gx.lowbit.bitsandbytes.np.save('x', 1)",
        "optax.tree.jax.numpy.save('x', 1)",
        "np.asarray([1]).tofile('x')",
        "adamw(np.asarray([1]).tofile('x'))",
    ):
        with pytest.raises(NotRead):
            read_transform(text)
    assert not list(tmp_path.iterdir())
    assert isinstance(np.asarray(1), np.ndarray)
    assert optax.__name__ == "optax"
