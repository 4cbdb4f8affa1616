"""`gradxform.interop`: states that come from elsewhere, and what becomes of them here."""

from .optax_states import from_optax as from_optax
from .restore import Restored as Restored, RestoredLeaf as RestoredLeaf, restore_into as restore_into
