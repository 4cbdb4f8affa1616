"""The trees on which optimizers are measured: names and shapes of leaves. Imports nothing, so that anybody can."""

from collections.abc import Mapping

Shapes = Mapping[str, tuple[int, ...]]


def transformer(width: int, layers: int, vocabulary: int = 8_000, positions: int = 1024) -> Shapes:
    """The leaves of a GPT-2 with tied embeddings: 12 a layer and four more, 148 for 12 layers."""
    d = width
    shapes: dict[str, tuple[int, ...]] = {"embed": (vocabulary, d), "position": (positions, d)}
    for i in range(layers):
        block: dict[str, tuple[int, ...]] = {
            "norm1_scale": (d,), "norm1_bias": (d,), "qkv": (d, 3 * d), "qkv_bias": (3 * d,),
            "out": (d, d), "out_bias": (d,), "norm2_scale": (d,), "norm2_bias": (d,),
            "up": (d, 4 * d), "up_bias": (4 * d,), "down": (4 * d, d), "down_bias": (d,),
        }  # fmt: skip
        shapes.update({f"block_{i}/{name}": shape for name, shape in block.items()})
    return {**shapes, "norm_scale": (d,), "norm_bias": (d,)}


def alike(leaves: int, *shape: int) -> Shapes:
    """So many leaves of one shape."""
    return {f"w{i}": shape for i in range(leaves)}


TREES: dict[str, Shapes] = {
    "one leaf of 50 M": alike(1, 6_250, 8_000),
    "GPT-2 small, 148 leaves, 124 M": transformer(768, 12, 50_257),
    "1,000 leaves of 10 k": alike(1000, 100, 100),
    "5,000 leaves of 100": alike(5000, 10, 10),
}
#: So small that the whole table takes less than a minute: to see that it runs.
QUICK: dict[str, Shapes] = {"3 leaves of 100": alike(3, 10, 10)}
