"""`gradxform.sharding`: where every leaf of a state lies, for any transform on any mesh."""

from .offload import offload as offload
from .over import reduce_over as reduce_over
from .place import init_sharded as init_sharded, state_shardings as state_shardings
from .shapes import abstract_state as abstract_state
from .step import make_step as make_step
from .zero import slices as slices, zero as zero
