"""The bits of a low-bit state, as checkpoints hold them: the same as when they were recorded."""

import numpy as np
import pytest

from tests.golden.lowbit_runs import CODECS, encoded, given
from tests.reference import Golden

GOLDEN = Golden.load("lowbit.npz")
ARRAYS = GOLDEN.tree("x")


@pytest.mark.parametrize("name", CODECS)
def test_no_bit_has_changed(name: str) -> None:
    """Codes to nearest and of three writings by thresholds, and scales, of all sizes of numbers."""
    made = encoded(name, {key: given(name, x) for key, x in ARRAYS.items()})
    assert set(made) == {key for key in GOLDEN.arrays if key.split("/")[1] == name}
    for key, got in made.items():
        want = GOLDEN.arrays[key]
        assert got.dtype == want.dtype
        np.testing.assert_array_equal(got, want, err_msg=key)
