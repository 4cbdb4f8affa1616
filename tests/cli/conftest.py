"""The extra `cli` is part of `test`; where somebody has left it out these tests have nothing to run."""

import pytest

pytest.importorskip("click")
pytest.importorskip("rich")
