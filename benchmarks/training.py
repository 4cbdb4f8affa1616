"""The update inside a whole training step: a small GPT-2's loss, its gradient and the new parameters in one program.

So narrow a model with so few tokens that the update is a large part of the step; beside it stands the program that only
forms the gradient. Its share is what the rest of the step takes longer by.
"""

import time
from collections.abc import Callable, Iterator
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

import gradxform as gx
from benchmarks.cases import Case, Options
from benchmarks.entrants import LeftOut, Make, apply_of, bytes_of
from benchmarks.methods import FLAT, OURS, THEIRS, ours, theirs
from benchmarks.program import build
from benchmarks.shapes import Shapes, transformer
from benchmarks.trees import tree

HEADS, TOKENS = 8, 64
GRADIENT = "gradient alone"
WIDE, MANY = transformer(512, 6, 8_000, TOKENS), transformer(64, 24, 512, TOKENS)
SIZES: dict[str, Shapes] = {"76 leaves, 23 M": WIDE, "292 leaves, 1.2 M": MANY}
QUICK: dict[str, Shapes] = {"16 leaves": transformer(16, 1, 100, TOKENS)}


def normed(x: Any, scale: Any, bias: Any) -> Any:
    centred = x - x.mean(-1, keepdims=True)
    return centred * jax.lax.rsqrt((centred**2).mean(-1, keepdims=True) + 1e-5) * scale + bias


def mixed(qkv: Any, heads: int) -> Any:
    """Causal attention; queries, keys and values side by side."""
    length = qkv.shape[0]
    q, k, v = (y.reshape(length, heads, -1) for y in jnp.split(qkv, 3, axis=-1))
    ahead = np.triu(np.full((length, length), -1e9, np.float32), 1)
    scores = jnp.einsum("qhd,khd->hqk", q, k) * np.float32(q.shape[-1] ** -0.5) + ahead
    return jnp.einsum("hqk,khd->qhd", jax.nn.softmax(scores), v).reshape(length, -1)


def loss(params: Any, tokens: Any) -> Any:
    """The mean cross entropy of the next token, one sequence."""
    x, layers = params["embed"][tokens[:-1]] + params["position"], (len(params) - 4) // 12
    for i in range(layers):
        p = {
            name.partition("/")[2]: value for name, value in params.items() if name.startswith(f"block_{i}/")
        }
        y = normed(x, p["norm1_scale"], p["norm1_bias"]) @ p["qkv"] + p["qkv_bias"]
        x = x + mixed(y, HEADS) @ p["out"] + p["out_bias"]
        y = normed(x, p["norm2_scale"], p["norm2_bias"]) @ p["up"] + p["up_bias"]
        x = x + jax.nn.gelu(y) @ p["down"] + p["down_bias"]
    logits = normed(x, params["norm_scale"], params["norm_bias"]) @ params["embed"].T
    return -jnp.take_along_axis(jax.nn.log_softmax(logits), tokens[1:, None], axis=1).mean()


class Training:
    """A donated step: `step(*carried, *rest)` gives what is carried anew."""

    def __init__(self, step: Callable[..., Any], carried: tuple[Any, ...], *rest: Any) -> None:
        self.rest, self.carried = rest, carried
        donate = tuple(range(len(carried)))
        # What is donated may be there for its memory alone.
        self.program, figures = build(step, (*carried, *rest), donate=donate, keep_unused=True, fresh=True)
        numbers = sum(x.size for x in jax.tree.leaves(carried[0]))
        self.facts: dict[str, Any] = {**figures._asdict(), "numbers": numbers}
        if len(carried) == 2:
            self.facts["state_bytes_a_number"] = bytes_of(carried[1]) / numbers
        jax.block_until_ready(carried)

    def turn(self) -> float:
        start = time.perf_counter()
        self.carried = jax.block_until_ready(self.program(*self.carried, *self.rest))
        return time.perf_counter() - start

    @property
    def params(self) -> Any:
        return self.carried[0] if len(self.carried) == 2 else None  # else a gradient

    def close(self) -> None:
        del self.carried, self.program, self.rest


def training(tx: Any, params: Any, tokens: Any, whole: Callable[[Any], Any] = lambda p: p) -> Training:
    """`whole` gives the model's parameters from what the optimizer holds."""
    apply = apply_of(tx)

    def step(params: Any, state: Any, tokens: Any) -> Any:
        grads = jax.grad(lambda p: loss(whole(p), tokens))(params)
        updates, state = tx.update(grads, state, params)
        return apply(params, updates), state

    return Training(step, (params, tx.init(params)), tokens)


def gradient(params: Any, tokens: Any) -> Training:
    """Only the gradient, written over that of the last turn."""

    def step(old: Any, params: Any, tokens: Any) -> Any:
        del old
        return (jax.grad(loss)(params, tokens),)

    return Training(step, (jax.tree.map(jnp.zeros_like, params),), params, tokens)


def flat(params: Any, tokens: Any) -> Training:
    if not hasattr(gx, "fused"):
        raise LeftOut("this gradxform has no gx.fused")
    tx = ours("adamw")
    return training(gx.fused.bucketed(tx), gx.fused.pack(params, tx), tokens, gx.fused.unpack)


def case(tree_name: str, shapes: Shapes) -> Case:
    vocabulary = shapes["embed"][0]
    tokens = jnp.asarray(np.random.default_rng(0).integers(0, vocabulary, TOKENS + 1), jnp.int32)
    made: dict[str, Make] = {
        OURS: lambda: training(ours("adamw"), tree(shapes, 1), tokens),
        THEIRS: lambda: training(theirs("adamw"), tree(shapes, 1), tokens),
        FLAT: lambda: flat(tree(shapes, 1), tokens),
        GRADIENT: lambda: gradient(tree(shapes, 1), tokens),
    }
    pairs = [(OURS, THEIRS), (FLAT, THEIRS), (GRADIENT, OURS), (GRADIENT, THEIRS)]
    return Case("training step", tree_name, "adamw", shapes, made, pairs, moved=None)


def cases(options: Options) -> Iterator[Case]:
    for tree_name, shapes in options.among(SIZES, QUICK):
        yield case(tree_name, shapes)
