"""Arrays in a safetensors file that another program wrote."""

import os
from pathlib import Path

import jax.numpy as jnp
import numpy as np

from .._core.errors import say
from .manifest import CheckpointError

#: What safetensors calls the dtypes that JAX has.
_DTYPES = {
    "BOOL": "bool",
    "U8": "uint8",
    "I8": "int8",
    "U16": "uint16",
    "I16": "int16",
    "U32": "uint32",
    "I32": "int32",
    "U64": "uint64",
    "I64": "int64",
    "F16": "float16",
    "BF16": "bfloat16",
    "F32": "float32",
    "F64": "float64",
    "F8_E4M3": "float8_e4m3fn",
    "F8_E5M2": "float8_e5m2",
}


def arrays_of(path: str | os.PathLike[str], who: str) -> dict[str, np.ndarray]:
    """The arrays by name. Of what they mean nothing is known."""
    import safetensors

    try:
        found = safetensors.deserialize(Path(path).read_bytes())
    except Exception as problem:
        raise CheckpointError(say(f"{who}: the file is not whole: {problem}", "load an older one")) from None
    arrays: dict[str, np.ndarray] = {}
    for name, x in found:
        if x["dtype"] not in _DTYPES:
            raise CheckpointError(f"{who}: {name} is of {x['dtype']}, which JAX does not have")
        arrays[name] = np.frombuffer(x["data"], jnp.dtype(_DTYPES[x["dtype"]])).reshape(x["shape"])
    return arrays
