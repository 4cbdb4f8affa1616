"""Write lowbit.npz: the codes and scales of low-bit states. Run: python tests/golden/make_lowbit.py

A checkpoint holds these bits. A change of them is a new format: it needs a way to read the old one.
"""

import json
from pathlib import Path
from typing import Any

import jax
import numpy as np
from lowbit_runs import CODECS, arrays, encoded, given

HERE = Path(__file__).resolve().parent


def main() -> None:
    made: dict[str, Any] = {f"x/{key}": x for key, x in arrays().items()}
    for name in CODECS:
        made |= encoded(name, {key: given(name, x) for key, x in arrays().items()})
    made["meta"] = np.array(json.dumps({"jax": jax.__version__, "numpy": np.__version__}))
    np.savez_compressed(HERE / "lowbit.npz", **made)


if __name__ == "__main__":
    main()
