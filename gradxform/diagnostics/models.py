"""Trees of shapes of published language models, by the names that people give them: "7b", "125m"."""

from dataclasses import dataclass
from typing import Any

import jax
import numpy as np

from .._core.errors import say


@dataclass(frozen=True)
class Model:
    """The numbers of a published configuration, from which every shape follows.

    Attributes:
        source: which model it is, and where its numbers were published.
        width: of the residual stream.
        layers: how many blocks.
        hidden: width inside of the feed-forward part.
        vocabulary: how many tokens.
        keys: width of all keys (and of all values); that of the residual stream without grouped queries.
        context: rows of the learned table of positions; 0 for rotary positions.
        tied: whether the embedding serves as the head.
        gated: a feed-forward part of three matrices without biases (Llama), or of two with biases (GPT).
    """

    source: str
    width: int
    layers: int
    hidden: int
    vocabulary: int
    keys: int
    context: int = 0
    tied: bool = False
    gated: bool = True

    def shapes(self) -> dict[str, tuple[int, ...]]:
        """Every leaf under its path."""
        d, vocabulary = self.width, self.vocabulary
        found: dict[str, tuple[int, ...]] = {"embed": (vocabulary, d)}
        if self.context:
            found["positions"] = (self.context, d)
        block = self._llama() if self.gated else self._gpt()
        for i in range(self.layers):
            found.update({f"layer_{i}/{name}": shape for name, shape in block.items()})
        found["norm/scale"] = (d,)
        if not self.gated:
            found["norm/bias"] = (d,)
        if not self.tied:
            found["head"] = (d, vocabulary)
        return found

    def _llama(self) -> dict[str, tuple[int, ...]]:
        d, h, k = self.width, self.hidden, self.keys
        return {
            "attention/q": (d, d),
            "attention/k": (d, k),
            "attention/v": (d, k),
            "attention/o": (d, d),
            "attention_norm/scale": (d,),
            "mlp/gate": (d, h),
            "mlp/up": (d, h),
            "mlp/down": (h, d),
            "mlp_norm/scale": (d,),
        }

    def _gpt(self) -> dict[str, tuple[int, ...]]:
        d, h = self.width, self.hidden
        return {
            "attention/qkv/kernel": (d, 3 * d),
            "attention/qkv/bias": (3 * d,),
            "attention/o/kernel": (d, d),
            "attention/o/bias": (d,),
            "attention_norm/scale": (d,),
            "attention_norm/bias": (d,),
            "mlp/up/kernel": (d, h),
            "mlp/up/bias": (h,),
            "mlp/down/kernel": (h, d),
            "mlp/down/bias": (d,),
            "mlp_norm/scale": (d,),
            "mlp_norm/bias": (d,),
        }


def _gpt(source: str, width: int, layers: int, context: int) -> Model:
    return Model(source, width, layers, 4 * width, 50257, width, context, tied=True, gated=False)


_GPT2 = "GPT-2, Radford et al. 2019"
_GPT3 = "GPT-3, Brown et al. 2020, table 2.1"
_LLAMA = "LLaMA, Touvron et al. 2023, arXiv:2302.13971, table 2"

#: What a name stands for. Where several models go by one name, it is the Llama of that size.
MODELS = {
    "124m": _gpt(_GPT2, 768, 12, 1024),
    "355m": _gpt(_GPT2, 1024, 24, 1024),
    "774m": _gpt(_GPT2, 1280, 36, 1024),
    "1.5b": _gpt(_GPT2, 1600, 48, 1024),
    "125m": _gpt(_GPT3, 768, 12, 2048),
    "350m": _gpt(_GPT3, 1024, 24, 2048),
    "1.3b": _gpt(_GPT3, 2048, 24, 2048),
    "2.7b": _gpt(_GPT3, 2560, 32, 2048),
    "6.7b": _gpt(_GPT3, 4096, 32, 2048),
    "175b": _gpt(_GPT3, 12288, 96, 2048),
    "7b": Model(_LLAMA, 4096, 32, 11008, 32000, 4096),
    "13b": Model(_LLAMA, 5120, 40, 13824, 32000, 5120),
    "33b": Model(_LLAMA, 6656, 60, 17920, 32000, 6656),
    "65b": Model(_LLAMA, 8192, 80, 22016, 32000, 8192),
    "70b": Model("Llama 2, Touvron et al. 2023, arXiv:2307.09288", 8192, 80, 28672, 32000, 1024),
    "8b": Model("Llama 3, arXiv:2407.21783, table 3", 4096, 32, 14336, 128256, 1024),
    "405b": Model("Llama 3.1, arXiv:2407.21783, table 3", 16384, 126, 53248, 128256, 1024),
}

#: A count without a model lies in square matrices of this width, which is that of "7b".
_SIDE = 4096


def shapes(params: Any, dtype: Any, who: str) -> Any:
    """The tree that `params` names (a model's name, a count), or itself; its floats in `dtype` where one is said."""
    if isinstance(params, str):
        return _tree(_model(params, who).shapes(), dtype)
    if isinstance(params, int) and not isinstance(params, bool):
        return _tree(_square(params, who), dtype)
    return params if dtype is None else jax.tree.map(lambda x: _cast(x, dtype), params)


def _model(name: str, who: str) -> Model:
    found = MODELS.get(name.strip().lower())
    if found is None:
        sizes = ", ".join(sorted(MODELS, key=lambda text: (text[-1] == "b", float(text[:-1]))))
        fact = f"{who}: no model is called {name!r}"
        raise ValueError(
            say(fact, f"known are {sizes}", "a count (7_000_000_000) or a tree of shapes is taken too")
        )
    return found


def _square(count: int, who: str) -> dict[str, tuple[int, ...]]:
    if count < 1:
        raise ValueError(f"{who}: wanted at least one parameter, got {count}")
    full, rest = divmod(count, _SIDE * _SIDE)
    found: dict[str, tuple[int, ...]] = {f"matrix_{i}": (_SIDE, _SIDE) for i in range(full)}
    return {**found, "rest": (rest,)} if rest else found


def _tree(found: dict[str, tuple[int, ...]], dtype: Any) -> dict[str, Any]:
    tree: dict[str, Any] = {}
    for path, shape in found.items():
        *parents, name = path.split("/")
        node = tree
        for parent in parents:
            node = node.setdefault(parent, {})
        node[name] = jax.ShapeDtypeStruct(shape, np.dtype("float32") if dtype is None else dtype)
    return tree


def _cast(x: Any, dtype: Any) -> Any:
    if not hasattr(x, "dtype") or not jax.numpy.issubdtype(x.dtype, jax.numpy.inexact):
        return x
    sharding = getattr(x, "sharding", None)
    laid = sharding if isinstance(sharding, jax.NamedSharding) else None
    return jax.ShapeDtypeStruct(x.shape, dtype, sharding=laid)
