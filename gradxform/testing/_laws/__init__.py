"""The laws, a theme a file."""

from . import (
    devices as devices,
    direction as direction,
    finite as finite,
    folding as folding,
    forms as forms,
    leaves as leaves,
    precision as precision,
    refusals as refusals,
    running as running,
    shards as shards,
    starting as starting,
    storing as storing,
    trees as trees,
    values as values,
)
