"""Functions of two numbers on which optimizers can be watched, and the paths that they take there.

    Rosenbrock     f(x, y) = (1 - x)^2 + 100 (y - x^2)^2                        a bent valley, flat along its ground
    saddle         f(x, y) = x^2 / 2 - y^2 / 2 + y^4 / 4                        flat at 0, lowest at (0, 1) and (0, -1)
    noisy ravine   f(x, y) = (u^2 / 10 + 10 v^2) / 2, gradients with noise      100 times as steep across as along

u and v are x and y turned by 30 degrees: along an axis of its own a method that scales each coordinate by itself would
have no ravine at all. Nothing is drawn here; `gx.plots.paths` draws.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from .._core.apply import apply_updates
from .._core.errors import kind, say, short
from .._core.transform import GradientTransformation, as_transform

#: The forms that two parameters can have. Methods of matrices see a row or a column.
SHAPES = ((2,), (1, 2), (2, 1))


@dataclass(frozen=True)
class Landscape:
    """A function of two numbers with the place where a path begins.

    Args:
        name: what a picture says above it.
        fn: the function, of an array of the two numbers `(x, y)`; made of `jax.numpy`, so that it has a gradient.
        start: where paths begin.
        box: what is looked at: `((left, right), (bottom, top))`.
        minimum: the lowest point, or one of them; None if there is none.
        noise: the standard deviation of the normal numbers that are added to both parts of each gradient. The losses
            have no noise.

    Raises:
        TypeError: for an `fn` that is no function.
        ValueError: for a start, box, minimum or noise of another form.

    Example:
        >>> import gradxform as gx
        >>> from gradxform.diagnostics import landscapes
        >>> bowl = landscapes.Landscape("bowl", lambda w: (w**2).sum(), (3.0, 1.0), ((-4, 4), (-4, 4)), (0.0, 0.0))
        >>> positions, losses = landscapes.trajectory(gx.sgd(0.25), bowl, 2)
        >>> positions.tolist(), losses.tolist()
        ([[3.0, 1.0], [1.5, 0.5], [0.75, 0.25]], [10.0, 2.5, 0.625])
    """

    name: str
    fn: Callable[[Any], Any]
    start: tuple[float, float]
    box: tuple[tuple[float, float], tuple[float, float]]
    minimum: tuple[float, float] | None = None
    noise: float = 0.0

    def __post_init__(self) -> None:
        who = f"Landscape({self.name!r})"
        if not callable(self.fn):
            raise TypeError(f"{who}: fn: wanted a function of two numbers, got {kind(self.fn)}")
        # A landscape is compiled into the run of a path, so it is a value; lists would not be one.
        object.__setattr__(self, "start", _point(who, "start", self.start))
        if self.minimum is not None:
            object.__setattr__(self, "minimum", _point(who, "minimum", self.minimum))
        object.__setattr__(self, "box", _box(who, self.box))
        if not 0 <= self.noise < math.inf:
            raise ValueError(f"{who}: noise: wanted a finite number of at least 0, got {short(self.noise)}")


def _point(who: str, name: str, value: Any) -> tuple[float, float]:
    try:
        x, y = (float(number) for number in value)
    except (TypeError, ValueError):
        raise ValueError(f"{who}: {name}: wanted two numbers (x, y), got {short(value)}") from None
    if not (math.isfinite(x) and math.isfinite(y)):
        raise ValueError(f"{who}: {name}: wanted two finite numbers (x, y), got {short(value)}")
    return x, y


def _box(who: str, value: Any) -> tuple[tuple[float, float], tuple[float, float]]:
    try:
        x, y = (_point(who, "box", pair) for pair in value)
    except (TypeError, ValueError):
        x, y = (0.0, 0.0), (0.0, 0.0)
    if not (x[0] < x[1] and y[0] < y[1]):
        fact = f"{who}: box: wanted ((left, right), (bottom, top)), each from low to high, got {short(value)}"
        raise ValueError(fact)
    return x, y


def _rosenbrock(w: Any) -> Any:
    x, y = w
    return (1 - x) ** 2 + 100 * (y - x**2) ** 2


def _saddle(w: Any) -> Any:
    x, y = w
    return x**2 / 2 - y**2 / 2 + y**4 / 4


def _ravine(w: Any) -> Any:
    x, y = w
    along, across = math.cos(math.pi / 6), math.sin(math.pi / 6)
    u, v = along * x + across * y, along * y - across * x
    return (u**2 / 10 + 10 * v**2) / 2


#: Rosenbrock's valley from where he began (Rosenbrock, An automatic method for finding the greatest or least value of
#: a function, The Computer Journal 1960).
ROSENBROCK = Landscape("Rosenbrock", _rosenbrock, (-1.2, 1.0), ((-1.75, 1.5), (-0.5, 1.75)), (1.0, 1.0))
#: A path begins almost on the ridge, where the way down is sideways and its slope a hundredth. Of the two lowest points
#: the box shows the one on that side.
SADDLE = Landscape("saddle", _saddle, (-1.5, 0.01), ((-2.0, 1.0), (-0.75, 1.75)), (0.0, 1.0))
#: A path begins on the slope, where noise and the way along the valley are alike in size.
RAVINE = Landscape("noisy ravine", _ravine, (-4.2, -0.7), ((-5.0, 2.5), (-3.5, 2.0)), (0.0, 0.0), noise=0.5)


def trajectory(
    tx: Any, landscape: Landscape, steps: Any, *, key: Any = None, start: Any = None, shape: Any = (2,)
) -> tuple[Any, Any]:
    """The path of a transform on a landscape: one compiled scan of its own `update`.

    Args:
        tx: any transform, ours or Optax's. It gets the keywords `value`, `grad` and `value_fn` too, which line searches
            and step sizes after Polyak need. Its numbers may be traced: `jax.vmap` over a learning rate makes many
            paths in one run.
        landscape: `ROSENBROCK`, `SADDLE`, `RAVINE` or one of your own.
        steps: how many, at least 1.
        key: of the noise, if the landscape has any: a `jax.random.key`; by default that of 0. The same key gives every
            transform the same noise.
        start: another place to begin: two numbers; by default the landscape's.
        shape: how the transform sees the two numbers: `(2,)`; `(1, 2)` or `(2, 1)` for methods of matrices, such as
            Muon, for which a row is a matrix with one singular value.

    Returns:
        `(positions, losses)`, arrays of shape `(steps + 1, 2)` and `(steps + 1,)`: the start first, then where each
        step leads. A path that diverges goes on as infinities and NaN.

    Raises:
        TypeError: for something that is no transform or no landscape.
        ValueError: for fewer than one step, a start that is not two numbers, another shape.

    Example:
        >>> import gradxform as gx
        >>> from gradxform.diagnostics import landscapes
        >>> positions, losses = landscapes.trajectory(gx.adam(0.1), landscapes.SADDLE, 200)
        >>> positions.shape, [round(abs(float(x)), 2) for x in positions[-1]]
        ((201, 2), [0.0, 1.0])
    """
    transform = as_transform(tx, "landscapes.trajectory(tx)")
    _check_landscape("landscapes.trajectory", landscape)
    if isinstance(steps, bool) or not isinstance(steps, int | np.integer) or steps < 1:
        fact = f"landscapes.trajectory(steps={short(steps)}): wanted a whole number of at least 1"
        raise ValueError(fact)
    if not isinstance(shape, tuple | list) or tuple(shape) not in SHAPES:
        wanted = ", ".join(map(str, SHAPES))
        raise ValueError(f"landscapes.trajectory(shape={short(shape)}): wanted one of {wanted}")
    first = jnp.asarray(landscape.start if start is None else start, dtype=float)
    if first.shape != (2,):
        fact = f"landscapes.trajectory(start={short(start)}): wanted two numbers (x, y)"
        raise ValueError(say(fact, f"got shape {first.shape}"))
    key = jax.random.key(0) if key is None else key
    # A transform of traced numbers is no value to compile for, and is inside of somebody's program anyway.
    run = _run if transform.spec.holds_array else _compiled
    return run(transform, landscape, int(steps), tuple(shape), key, first)


def _run(
    tx: GradientTransformation,
    landscape: Landscape,
    steps: int,
    shape: tuple[int, ...],
    key: Any,
    start: Any,
) -> tuple[Any, Any]:
    def loss(w: Any) -> Any:
        return landscape.fn(w.reshape(2))

    def step(carry: tuple[Any, Any], t: Any) -> tuple[Any, Any]:
        w, state = carry
        value, gradient = jax.value_and_grad(loss)(w)
        if landscape.noise:
            draw = jax.random.normal(jax.random.fold_in(key, t), (2,), w.dtype)
            gradient = gradient + landscape.noise * draw.reshape(shape)
        updates, state = tx.update(gradient, state, w, value=value, grad=gradient, value_fn=loss)
        return (apply_updates(w, updates), state), (w, value)

    first = start.reshape(shape)
    (last, _), (positions, losses) = jax.lax.scan(step, (first, tx.init(first)), jnp.arange(steps))
    positions = jnp.concatenate([positions, last[None]]).reshape(steps + 1, 2)
    return positions, jnp.concatenate([losses, loss(last)[None]])


_compiled = jax.jit(_run, static_argnums=(0, 1, 2, 3))


def surface(landscape: Landscape, points: Any = 201) -> tuple[Any, Any, Any]:
    """The heights of a landscape on a grid over its box.

    Args:
        landscape: one of this module's or one of your own.
        points: how many along each side, at least 2.

    Returns:
        `(x, y, z)`, NumPy arrays: `x` and `y` of so many numbers, `z[i, j]` the height at `(x[j], y[i])`, as contours
        are drawn.

    Raises:
        TypeError: for something that is no landscape.
        ValueError: for fewer than two points.

    Example:
        >>> from gradxform.diagnostics import landscapes
        >>> x, y, z = landscapes.surface(landscapes.SADDLE, 5)
        >>> z.shape, float(x[0]), float(y[-1])
        ((5, 5), -2.0, 1.75)
    """
    _check_landscape("landscapes.surface", landscape)
    if isinstance(points, bool) or not isinstance(points, int | np.integer) or points < 2:
        fact = f"landscapes.surface(points={short(points)}): wanted a whole number of at least 2"
        raise ValueError(fact)
    x, y = (np.linspace(low, high, points) for low, high in landscape.box)
    grid = jnp.asarray(np.stack(np.meshgrid(x, y), axis=-1), dtype=float)
    return x, y, np.asarray(jax.vmap(jax.vmap(landscape.fn))(grid))


def _check_landscape(who: str, landscape: Any) -> None:
    """Raises unless this is a landscape."""
    if not isinstance(landscape, Landscape):
        fact = f"{who}(landscape={short(landscape)}): wanted a Landscape, got {kind(landscape)}"
        names = "landscapes.ROSENBROCK, landscapes.SADDLE and landscapes.RAVINE are there"
        raise TypeError(say(fact, names))
