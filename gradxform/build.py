"""`gradxform.build`: what an author of transforms needs. Everything works the same in another package or a notebook.

A method is a rule on one leaf (`elementwise`, `leafwise`, `treewise`), with a state whose fields have roles, inside a
function decorated with `factory`. See `docs/guide/writing.md` for a walk through one.
"""

from ._core.factory import factory as factory, mask as mask, schedule as schedule
from ._core.foreign import declare as declare, reach_of as reach_of
from ._core.leaf import Leaf as Leaf
from ._core.lift import elementwise as elementwise, leafwise as leafwise, treewise as treewise
from ._core.numerics import (
    Decay as Decay,
    TwoFloat as TwoFloat,
    abs_sq as abs_sq,
    debias as debias,
    ema as ema,
    filled as filled,
    leaf_number as leaf_number,
    quotient as quotient,
    random_bits as random_bits,
    stochastic_round as stochastic_round,
    two_float as two_float,
)
from ._core.plan import Executor as Executor
from ._core.reduce import reduce_leaves as reduce_leaves
from ._core.roles import (
    Accumulator as Accumulator,
    Basis as Basis,
    Count as Count,
    Factor as Factor,
    Gram as Gram,
    History as History,
    Iterate as Iterate,
    Key as Key,
    Moment as Moment,
    Reading as Reading,
    Residual as Residual,
    SecondMoment as SecondMoment,
    declare_exact as declare_exact,
    declare_own as declare_own,
    declare_roles as declare_roles,
    roles_of as roles_of,
)
from ._core.rule import Context as Context, Scheduled as Scheduled, Stage as Stage
from ._core.transform import as_transform as as_transform
