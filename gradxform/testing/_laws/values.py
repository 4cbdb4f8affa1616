"""A transform is a value: it can be compared, hashed, copied, sent to another process and written down."""

import copy
import pickle
import sys
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax

from ..._core.spec import Spec, from_json, to_json
from ..._core.transform import is_value as has_text
from .._law import Broken, Inapplicable, Raised, law
from .._subject import Subject


@law("it can be pickled and copied, and what comes back is equal to it")
def is_value(s: Subject) -> None:
    try:
        again = pickle.loads(pickle.dumps(s.tx))
    except Exception as problem:
        raise Raised(problem, {}, "pickle.loads(pickle.dumps(tx)) == tx") from problem
    for how, other in (("unpickled", again), ("copied", copy.deepcopy(s.tx))):
        if other != s.tx or hash(other) != hash(s.tx):
            raise Broken(f"{how}, it is not equal to itself", {}, "pickle.loads(pickle.dumps(tx)) == tx")


@law("it prints as the call that makes it, and its JSON is read back as an equal one")
def text(s: Subject) -> None:
    if not isinstance(getattr(s.tx, "spec", None), Spec):
        raise Inapplicable("no gradxform factory made it")
    if not has_text(s.tx):
        raise Inapplicable("an argument is somebody's function or transform, which has no text")
    written = repr(s.tx)
    scope: dict[str, Any] = {"jax": jax, "jnp": jnp, "np": np, "optax": optax, "gx": sys.modules["gradxform"]}
    module = s.tx.spec.factory.call.__module__
    scope.update({module.split(".")[0]: sys.modules[module.split(".")[0]]})
    try:
        same = eval(written, scope) == s.tx  # the law is that this text is code
    except NameError as problem:
        raise Inapplicable(f"its text needs names of its author: {problem}") from problem
    except Exception as problem:
        raise Broken(f"{written} raises {type(problem).__name__}", {}, f"{written} == tx") from problem
    if not same:
        raise Broken(f"{written} makes another transform", {}, f"{written} == tx")
    if from_json(to_json(s.tx)) != s.tx:
        raise Broken("its JSON makes another transform", {}, "gx.from_json(gx.to_json(tx)) == tx")
