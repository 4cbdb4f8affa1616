"""What stands beside the arrays of a checkpoint: names, roles, shapes, dtypes, the transform and the versions."""

import importlib.metadata
import json
from collections.abc import Mapping
from typing import Any, cast

import jax
import jax.numpy as jnp
import optax

from .._core.address import listed
from .._core.errors import kind, say, short
from .._core.packed import is_packed
from .._core.roles import OTHER, roles_of
from .._core.shapes import bare
from .._core.spec import to_json
from .._core.states import nodes, unboxed
from .._core.transform import as_transform
from .._core.tree import is_absent, path_text, view

#: What this version writes. It reads this one and all before it.
FORMAT = 1


class CheckpointError(ValueError):
    """A checkpoint that cannot be read, or not into this transform; the message says what it is and what to do."""


def manifest(tx: Any, state: Any, params: Any = None, *, extra: Any = None) -> dict[str, Any]:
    """What a state is, as plain data to be saved beside its arrays.

    `gx.interop.save` writes it into its file. For checkpoints of other libraries it is a JSON item of its own, which
    `gx.interop.check_manifest` holds against a transform before anything is restored.

    Args:
        tx: the transform that made `state`, ours or Optax's.
        state: its state, arrays or shapes, as `init` and `update` return it or as a training loop holds it.
        params: the parameters, if they are saved beside it.
        extra: what else belongs to the checkpoint and JSON can hold, such as `{"step": 1000}`.

    Returns:
        A dictionary: `format` (a whole number), `versions` (of gradxform, jax and optax), `transform` (what
        `gx.to_json` writes, None for one that has no text) and `text` (its `repr`), `arrays`: for each array, by a name
        such as `state/0/mu/dense/kernel`, its shape, dtype, the state's class and field, and the role of that field;
        `extra`.

    Raises:
        TypeError: if `tx` is no transform, or `extra` nothing that JSON can hold.
        ValueError: if two arrays have one name.

    Example:
        >>> import jax.numpy as jnp
        >>> import gradxform as gx
        >>> params = {"w": jnp.ones((4, 2))}
        >>> known = gx.interop.manifest(gx.adam(0.1), gx.adam(0.1).init(params), extra={"step": 0})
        >>> known["format"], known["text"], known["extra"]
        (1, 'gx.adam(0.1)', {'step': 0})
        >>> known["arrays"]["state/0/mu/w"]
        {'shape': [4, 2], 'dtype': 'float32', 'field': 'ScaleByAdamState.mu', 'role': 'moment'}
    """
    transform = as_transform(tx, "gx.interop.manifest(tx)")
    try:
        extra = json.loads(json.dumps(extra))
    except (TypeError, ValueError) as problem:
        fact = f"gx.interop.manifest(extra): JSON cannot hold {kind(extra)}: {problem}"
        raise TypeError(say(fact, "pass numbers, texts, lists and dictionaries")) from None
    try:
        written = json.loads(to_json(transform))
    except (TypeError, ValueError):  # somebody's functions are in it
        written = None
    state = unboxed(held(state))
    arrays = _entries("state", state, _fields(state))
    if params is not None:
        arrays |= _entries("params", unboxed(params), {})
    packages = {"gradxform": "gradxform", "jax": "jax", "optax": "optax"}
    versions = {name: importlib.metadata.version(package) for name, package in packages.items()}
    return {
        "format": FORMAT,
        "versions": versions,
        "transform": written,
        "text": repr(transform),
        "arrays": arrays,
        "extra": extra,
    }


def check_manifest(found: Any, tx: Any, params: Any, *, strict: bool = True) -> None:
    """Raises unless a checkpoint with this manifest holds the state of `tx` for `params`. No array is looked at.

    Args:
        found: what `gx.interop.manifest` returned when it was saved, or the same out of JSON.
        tx: the transform that shall go on.
        params: its parameters, or their shapes.
        strict: whether the transform has to be the one that was saved, each number of it included. With False it is
            enough that the state has the same arrays with the same meaning: a rate may have changed.

    Raises:
        gradxform.interop.CheckpointError: if it is no manifest, one of a later version, of another transform, or of
            other arrays. The message names what differs; `gx.restore_into` takes over what fits.

    Example:
        >>> import jax.numpy as jnp
        >>> import gradxform as gx
        >>> params = {"w": jnp.ones((4, 2))}
        >>> known = gx.interop.manifest(gx.adam(0.1), gx.adam(0.1).init(params))
        >>> gx.interop.check_manifest(known, gx.adam(0.2), params, strict=False)
        >>> gx.interop.check_manifest(known, gx.adam(0.2), params)  # doctest: +ELLIPSIS
        Traceback (most recent call last):
            ...
        gradxform.interop.manifest.CheckpointError: ...: saved by gx.adam(0.1), this is gx.adam(0.2)
          strict=False loads a state with the same arrays; gx.restore_into takes over what fits
    """
    who = "gx.interop.check_manifest"
    transform = as_transform(tx, f"{who}(tx)")
    data = readable(found, who)
    compare(data, transform, jax.eval_shape(transform.init, bare(unboxed(params))), strict, who)


def readable(found: Any, who: str) -> dict[str, Any]:
    """A manifest that this version can read; an error for anything else."""
    if not isinstance(found, Mapping) or not {"format", "arrays", "text"} <= set(
        cast("Mapping[str, Any]", found)
    ):
        fact = f"{who}: wanted what gx.interop.manifest returned, got {kind(found)}"
        raise CheckpointError(say(fact, "a checkpoint of another program? gx.restore_into takes any state"))
    data = dict(cast("Mapping[str, Any]", found))
    number = data["format"]
    if not isinstance(number, int) or isinstance(number, bool) or number < 1:
        raise CheckpointError(
            f"{who}: the manifest's format is {short(number)}, wanted a whole number from 1 on"
        )
    if number > FORMAT:
        by = cast("Mapping[str, Any]", data.get("versions") or {}).get("gradxform", "a later version")
        fact = f"{who}: written in format {number} by gradxform {by}, this one reads up to {FORMAT}"
        raise CheckpointError(say(fact, "pip install --upgrade gradxform"))
    return data


def compare(data: Mapping[str, Any], transform: Any, like: Any, strict: bool, who: str) -> None:
    """Raises unless the state in a manifest is one of this transform, of which `like` is the state as shapes."""
    wanted = _entries("state", like, _fields(like))
    got = {name: entry for name, entry in data["arrays"].items() if name.startswith("state")}
    text = repr(transform)
    restore = "gx.restore_into takes over what fits"
    missing, more = [n for n in wanted if n not in got], [n for n in got if n not in wanted]
    if missing or more:
        facts = [
            f"missing in it: {listed(missing)}" if missing else "",
            f"not wanted: {listed(more)}" if more else "",
        ]
        apart = f"{who}: saved by {data['text']}, whose state is not that of {text}"
        raise CheckpointError(say(apart, *facts, restore))
    for name, entry in wanted.items():
        for part in ("codes", "shape", "dtype", "role"):
            if entry.get(part) != got[name].get(part) and not (
                part == "role" and _undeclared(got[name], entry)
            ):
                fact = f"{who}: {name} has {part} {got[name].get(part)}, wanted {entry.get(part)}"
                same = data["text"] == text
                by = (
                    "it was saved from other parameters"
                    if same
                    else f"saved by {data['text']}, this is {text}"
                )
                raise CheckpointError(say(fact, by, restore))
    if strict and not _same(data, transform, text):
        remedy = f"strict=False loads a state with the same arrays; {restore}"
        raise CheckpointError(say(f"{who}: saved by {data['text']}, this is {text}", remedy))


def _undeclared(saved: Mapping[str, Any], entry: Mapping[str, Any]) -> bool:
    """Whether nobody had said yet, when it was saved, what this field of this class means."""
    return saved.get("role") == OTHER.name and saved.get("field") == entry.get("field")


def _same(data: Mapping[str, Any], transform: Any, text: str) -> bool:
    """Whether two transforms are one. Of those without JSON the text decides, and of closures it says no numbers."""
    try:
        return data["transform"] == json.loads(to_json(transform))
    except (TypeError, ValueError):
        return data["transform"] is None and data["text"] == text


def held(state: Any) -> Any:
    """The state in a training loop's object."""
    loop = not hasattr(state, "_fields") and hasattr(state, "opt_state")
    return state.opt_state if loop else state


def _fields(state: Any) -> dict[str, dict[str, str]]:
    """By the path of each node's field: the class and the field, and its role."""
    found: dict[str, dict[str, str]] = {}
    for address, node in nodes(state):
        for name, role in roles_of(type(node)).items():
            path = f"{address}/{name}" if address else name
            found[path] = {"field": f"{type(node).__name__}.{name}", "role": role.name}
    return found


def _entries(root: str, tree: Any, fields: Mapping[str, dict[str, str]]) -> dict[str, dict[str, Any]]:
    """Every array of a tree by name. The innermost field that a path leads through says what it is."""
    codes = dict(_codes(tree))
    found: dict[str, dict[str, Any]] = {}
    for name, x in named(root, tree).items():
        data = stored(x)
        path = name.removeprefix(root).removeprefix("/")
        entry: dict[str, Any] = {"shape": list(data.shape), "dtype": str(data.dtype)}
        if isinstance(x, jax.Array) and jnp.issubdtype(x.dtype, jax.dtypes.prng_key):
            entry["key"] = str(jax.random.key_impl(x))
        parts = path.split("/")
        ways = ["/".join(parts[:i]) for i in range(len(parts), 0, -1)]
        entry |= next((fields[way] for way in ways if way in fields), {})
        kept = next((codes[way] for way in ways if way in codes), None)
        if kept is not None:
            entry["codes"] = kept
        found[name] = entry
    return found


def _codes(tree: Any) -> list[tuple[str, str]]:
    """The paths of nodes that keep an array in codes, with what says how these are read."""
    marked = jax.tree_util.tree_flatten_with_path(tree, is_leaf=is_packed)[0]
    return [(path_text(path), repr(x.written)) for path, x in marked if is_packed(x)]


def stored(x: Any) -> Any:
    """An array as numbers: a PRNG key as its data; of a shape, its shape."""
    if not jnp.issubdtype(getattr(x, "dtype", jnp.float32), jax.dtypes.prng_key):
        return x if hasattr(x, "shape") else jnp.asarray(x)
    return jax.random.key_data(x) if isinstance(x, jax.Array) else jax.eval_shape(jax.random.key_data, x)


def named(root: str, tree: Any) -> dict[str, Any]:
    """The arrays of a tree by their path below `root`; what is absent is left out."""
    rows = view(tree)
    found: dict[str, Any] = {}
    for path, x in zip(rows.paths, rows.places, strict=True):
        if is_absent(x) or isinstance(x, optax.MaskedNode):
            continue
        name = f"{root}/{path}" if path else root
        if name in found:
            raise ValueError(say(f"gx.interop: two arrays are called {name!r}", "a key with a slash in it?"))
        found[name] = x
    return found
