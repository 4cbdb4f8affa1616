"""Float64 NumPy references, written from the papers' formulas: the oracles of the test suite.

A reference of a method works on one array and keeps its state in a dict with the field names that Optax uses
(`count`, `mu`, `nu`, `trace`, ...), so that a test can hand it any state (teacher forcing):

    state, update = reference.update(g, state, p)

`Leafwise` lifts it to a nested dict of arrays, `Chain` composes; `as_reference` turns the library's trees and states
into these. Schedules: `schedules` (Optax's) and `warmups` (ours). Every hyperparameter is a number or a function of
the 0-based step count. Nothing here imports JAX, Optax or gradxform; clarity comes before speed.
"""

from . import recipes_more as recipes_more, schedules as schedules, warmups as warmups
from .adam import Adam as Adam
from .adam_kin import (
    Adamax as Adamax,
    Amsgrad as Amsgrad,
    Belief as Belief,
    Nadam as Nadam,
    Radam as Radam,
    Yogi as Yogi,
    sma_length as sma_length,
)
from .adan import Adan as Adan
from .clip import (
    AdaptiveGradClip as AdaptiveGradClip,
    Clip as Clip,
    ClipByBlockRms as ClipByBlockRms,
    ClipByGlobalNorm as ClipByGlobalNorm,
    unitwise_norm as unitwise_norm,
)
from .decay import AddDecayedWeights as AddDecayedWeights
from .factored import FactoredRms as FactoredRms
from .golden import Golden as Golden
from .momentum import Ema as Ema, Identity as Identity, Lion as Lion, Sign as Sign, Trace as Trace
from .rate import (
    Scale as Scale,
    ScaleByLearningRate as ScaleByLearningRate,
    ScaleBySchedule as ScaleBySchedule,
)
from .recipes import adam as adam, adamw as adamw, lion as lion, nadamw as nadamw, sgd as sgd
from .root_mean import Adadelta as Adadelta, Rms as Rms, Rss as Rss, StdDev as StdDev
from .rprop import Rprop as Rprop
from .scalars import bias_correction as bias_correction
from .tree import (
    Chain as Chain,
    Leafwise as Leafwise,
    apply as apply,
    as_reference as as_reference,
    flatten as flatten,
    map_tree as map_tree,
    run as run,
)
from .trust import ParamBlockNorm as ParamBlockNorm, ParamBlockRms as ParamBlockRms, TrustRatio as TrustRatio
