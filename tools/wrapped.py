"""Tries every wrapper around every transform, ours and Optax's, and writes what was found to tests/laws/wrapped.json.

    python tools/wrapped.py [--wrapper guard ...]

Half an hour on one core. With `--wrapper` only those are tried again and the others kept.
"""

import argparse
import json
import sys
import time
import warnings
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
FILE = ROOT / "tests" / "laws" / "wrapped.json"


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--wrapper", nargs="*", help="only these")
    asked = parser.parse_args().wrapper
    sys.path.insert(0, str(ROOT))
    warnings.simplefilter("ignore")
    import jax

    jax.config.update("jax_num_cpu_devices", 8)
    from tests.laws import wrapped

    names = wrapped.OURS + wrapped.THEIRS
    results = json.loads(FILE.read_text()) if FILE.exists() else {}
    chosen = asked or list(wrapped.WRAPPERS)
    for wrapper in chosen:
        results[wrapper] = {"tried": [], "not applicable": [], "faults": {}}
    start = time.monotonic()
    for number, name in enumerate(names):
        for wrapper in chosen:
            found = wrapped.new_faults(wrapper, name)
            results[wrapper]["not applicable" if found is None else "tried"].append(name)
            if found:
                results[wrapper]["faults"][name] = found
                print(f"{wrapper} around {name}: {found}", flush=True)
        print(f"{number + 1} of {len(names)}: {name}, {time.monotonic() - start:.0f} s", flush=True)
        jax.clear_caches()
        kept = {wrapper: results[wrapper] for wrapper in wrapped.WRAPPERS if wrapper in results}
        FILE.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
