"""`gradxform.fused`: the same steps in fewer and longer loops."""

from .bucketed import bucketed as bucketed
from .buckets import Buckets as Buckets, pack as pack, unpack as unpack
from .step import apply_gradients as apply_gradients
