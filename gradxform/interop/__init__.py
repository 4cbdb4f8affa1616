"""`gradxform.interop`: states that come from elsewhere, and what becomes of them here."""

from .restore import Restored as Restored, RestoredLeaf as RestoredLeaf, restore_into as restore_into
