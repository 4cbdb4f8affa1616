"""`gradxform.interop`: states that come from elsewhere, and what becomes of them here."""

from .checkpoint import Loaded as Loaded, load as load, read_manifest as read_manifest, save as save
from .manifest import (
    CheckpointError as CheckpointError,
    check_manifest as check_manifest,
    manifest as manifest,
)
from .optax_states import from_optax as from_optax
from .restore import Restored as Restored, RestoredLeaf as RestoredLeaf, restore_into as restore_into
from .torch_moves import FromTorch as FromTorch, from_torch as from_torch, to_torch as to_torch
from .torch_run import TorchRun as TorchRun
