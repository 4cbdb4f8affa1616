"""Adam-mini: Adam with one second moment for a block of weights, where Adam has one for every weight.

    m_t = b1 m_{t-1} + (1 - b1) g_t                                  `mu` in the state
    v_t = b2 v_{t-1} + (1 - b2) mean over each block of g_t^2        `nu`, one number a block
    u_t = m_hat_t / (sqrt(v_hat_t) + eps)

g is the gradient; hats are corrections by 1 - b^t, t = 1, 2, ... the step. A block is a dense block of the Hessian:

    queries and keys               a head
    values, projections, MLPs      the weights into an output neuron
    embeddings, the output layer   the row of a token
    norms                          the whole array

and within one a single rate, well chosen, does as well as many. Biases, of which there are few, follow Adam, as in the
authors' code. Nearly all of nu goes: the state is half of Adam's.
Zhang et al., Adam-mini: use fewer learning rates to gain more, ICLR 2025, arXiv:2406.16793.
"""

from dataclasses import replace
from typing import Any, NamedTuple

import jax
import jax.numpy as jnp
import optax

from .._combine.chain import chain
from .._combine.plain import check_rate, scale_by_learning_rate
from .._core.body import RuleBody
from .._core.errors import check_number
from .._core.factory import factory
from .._core.joined import Joined
from .._core.lift import leafwise
from .._core.numerics import abs_sq, debias, ema, ratio
from .._core.plan import Lowering, Route
from .._core.roles import Count, Factor, Moment, declare_own
from .._core.rule import stack_depth
from .._core.transform import wrap
from .._core.tree import is_absent, view
from .decay import add_decayed_weights, check_decay
from .partition import Partition, means, spread, zeros


class ScaleByAdamMiniState(NamedTuple):
    """`nu` has a number for each block: axes of length 1 where nothing is kept, the number of heads on theirs."""

    count: Count
    mu: Moment
    nu: Factor


declare_own(ScaleByAdamMiniState, "nu")


@factory
def scale_by_adam_mini(
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    *,
    blocks: Any = None,
    heads: Any = None,
    mu_dtype: Any = None,
):
    """Adam-mini's direction, without learning rate and still uphill.

    **Update**: `u = m_hat / (sqrt(v_hat) + eps)` with the moments of this module's head.

    Args:
        b1: decay of the first moment, in [0, 1).
        b2: decay of the second moments, in [0, 1).
        eps: added to the root; in the unit of a gradient.
        blocks: the axes that are kept, of which each index has a number of its own, the mean over all other axes: an
            axis (-1: the output neurons of a kernel of Flax or Haiku; 0: those of torch's and Equinox's layout, and the
            tokens of a table), a tuple of axes, `()` for one number an array; for all leaves, or by patterns, the first
            that fits: `{"*/head/kernel": -1, "*norm*": ()}`; or a function of path and leaf that gives axes or None.
            What is left out, and all with None, goes by the names that Flax, Haiku and GPT-2 give: what ends in `bias`
            keeps all axes, in `scale` none; a table, two axes and `embed`, `wte` or `wpe` in its path but no `kernel`
            at its end, the first; kernels of three axes of `query` and `key` the second (heads), of `value` the last
            two; everything else the last.
        heads: patterns of arrays in whose kept axis heads lie side by side, and how many: `{"*/q_proj/kernel": 12,
            "*/k_proj/kernel": 4}`. One number a head.
        mu_dtype: storage of `mu`; None is the parameter's dtype.

    State: `ScaleByAdamMiniState(count, mu, nu)`: one number a parameter, and one a block, in float32 for a 16-bit
    parameter; roles count, moment, factor. The blocks of a run are those with which its state was made.

    Reach: leaf. A stack of layers in one array is one array unless `gx.per_layer` says otherwise; axes are those of
    one layer. With `heads`, arrays cannot be cut by `gx.sharding.reduce_over`, and ZeRO hands out whole ones.

    Returns:
        A transform whose update has a root mean square of about 1 in each block.

    Raises:
        ValueError: for a decay outside [0, 1) or a negative epsilon; when parameters arrive, for an axis that an array
            has not, a pattern that takes no leaf, a number of heads that does not divide the axis.
        TypeError: for axes that are no whole numbers, and for patterns that are none.

    Example:
        >>> import jax.numpy as jnp
        >>> import gradxform as gx
        >>> tx = gx.scale_by_adam_mini()
        >>> g = {"kernel": jnp.array([[1.0, 0.0], [7.0, 2.0]]), "bias": jnp.array([-5.0, 0.1])}
        >>> updates, state = tx.update(g, tx.init(g))
        >>> state.nu["kernel"].shape, state.nu["bias"].shape  # one for each of two output neurons
        ((1, 2), (2,))
        >>> [round(float(u), 3) for u in updates["kernel"][:, 0]]  # 1 and 7 have a root mean square of 5
        [0.2, 1.4]

    Differs from Optax, which does not have it; from the authors' code: arrays that no name tells go by output neurons,
    not whole.
    """
    who = "scale_by_adam_mini"
    check_number(who, "b1", b1, low=0, high=1, open_high=True)
    check_number(who, "b2", b2, low=0, high=1, open_high=True)
    check_number(who, "eps", eps, low=0)
    over, partition = ratio(eps), Partition(who, blocks, heads)

    def once(c: Any) -> dict[str, Any]:
        return {"c1": 1 / debias(c.b1, c.t), "c2": 1 / debias(c.b2, c.t)}

    def step(g: Any, s: Any, p: Any, k: Any, leaf: Any) -> Any:
        del p
        square, old = abs_sq(g), s.nu.real if jnp.iscomplexobj(s.nu) else s.nu
        v = ema(means(square, old, leaf, lambda: partition.at(leaf.path, leaf)), old, k.b2)
        m = ema(g, s.mu, k.b1)
        return over(k.c1 * m, spread(jnp.sqrt(k.c2 * v) + k.eps, g)), {"mu": m, "nu": v}

    tx = leafwise(
        step,
        once=once,
        state=ScaleByAdamMiniState,
        scalars={"eps": eps},
        decays={"b1": b1, "b2": b2},
        dtypes={"mu": mu_dtype},
        init={"nu": lambda p, leaf: zeros(p, partition.at(leaf.path, leaf), leaf)},
        sharded=not heads,
        call=who,
    )
    return wrap(MiniBody(tx.plan.links[0].rule, partition))


class MiniBody(RuleBody):
    """The rule, and what is asked of all leaves: patterns that take none, the names of those that share a bucket."""

    def __init__(self, rule: Any, partition: Partition) -> None:
        super().__init__(rule)
        self.partition = partition

    def init(self, params: Any, stacked: tuple[Any, ...] = ()) -> Any:
        if isinstance(params, Joined):
            own: dict[str, str] = {path: first for path, (first, _) in params.members.items()}

            def nu(p: Any, leaf: Any) -> Any:
                return zeros(p, self.partition.at(own[leaf.path], leaf), leaf)

            return replace(self.rule, init={"nu": nu}).init_state(params, stacked)
        rows = view(params)
        if rows.places and not any(map(is_absent, rows.places)):  # what a mask hides may be what is meant
            self.partition.check(rows)
        return super().init(params, stacked)

    def lower(self, lowering: Lowering, route: Route) -> Route:
        def sort(path: str, x: Any) -> Any:
            shape = tuple(x.shape)[stack_depth(route.stacked, path, x) :]
            return self.partition.of(path, jax.ShapeDtypeStruct(shape, x.dtype))

        return route.after(super().lower(lowering, replace(route, sorts=(*route.sorts, sort))))


@factory
def adam_mini(
    learning_rate: optax.ScalarOrSchedule,
    b1: Any = 0.9,
    b2: Any = 0.999,
    eps: Any = 1e-8,
    weight_decay: Any = 0.0,
    mask: Any = None,
    *,
    blocks: Any = None,
    heads: Any = None,
    mu_dtype: Any = None,
):
    """Adam-mini: AdamW with half of its state.

    **Advice.** AdamW's rate, decay and schedule; for language models `b2=0.95`. See `gx.memory` for what it saves, and
    look once at the shapes of `nu` in the state: a table of embeddings that goes by columns is what makes a large
    transformer diverge. In runs of less than some ten thousand steps the authors give values one number an array,
    `blocks={"*/value/kernel": ()}`. `gx.lowbit.quantized(gx.adamw(...))` keeps a quarter of AdamW's state, with all of
    its rates.

    Args:
        learning_rate: a number or a schedule; about the root mean square of the change of a block in one step.
        b1, b2, eps, blocks, heads, mu_dtype: as in `scale_by_adam_mini`.
        weight_decay: the decay per unit of learning rate; a number of at least 0, or a schedule.
        mask: which leaves decay; every form of `gx.masked`. None decays all.

    Returns:
        `chain(scale_by_adam_mini(...), add_decayed_weights(weight_decay, mask), scale_by_learning_rate(...))`.

    Example:
        >>> import gradxform as gx
        >>> gx.adam_mini(3e-4, b2=0.95, weight_decay=0.1, heads={"*/q_proj/kernel": 12})
        gx.adam_mini(0.0003, b2=0.95, weight_decay=0.1, heads={'*/q_proj/kernel': 12})
    """
    check_rate("adam_mini", learning_rate)
    check_decay("adam_mini", weight_decay)
    return chain(
        scale_by_adam_mini(b1, b2, eps, blocks=blocks, heads=heads, mu_dtype=mu_dtype),
        add_decayed_weights(weight_decay, mask),
        scale_by_learning_rate(learning_rate),
    )
