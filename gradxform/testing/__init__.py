"""The laws that every transform keeps, for the tests of whoever writes one.

    from gradxform import testing

    def test_mine():
        testing.check_transform(my_transform())

A law is a sentence ("a state keeps its structure, shapes, dtypes and weak types") and a function that looks for a
counterexample and shrinks it. Needs `pip install 'gradxform[testing]'`.
"""

import importlib.util

if missing := [name for name in ("chex", "hypothesis") if importlib.util.find_spec(name) is None]:
    raise ImportError(f"gradxform.testing needs {' and '.join(missing)}: pip install 'gradxform[testing]'")
del importlib, missing

from . import _laws as _laws  # noqa: E402  # fills the list of laws
from ._check import check_transform as check_transform  # noqa: E402
from ._example import quadratic as quadratic  # noqa: E402
from ._law import Law as Law, laws as laws  # noqa: E402
from ._report import LawBroken as LawBroken, Outcome as Outcome, Report as Report  # noqa: E402
from ._strategies import gradients as gradients, trees as trees  # noqa: E402
