"""Tries every wrapper around every transform, ours and Optax's, and writes what was found to tests/laws/wrapped.json.

    python tools/wrapped.py [--wrapper guard ...] [--transform adamw ...]

Half an hour on one core. With `--wrapper` or `--transform` only those are tried again and the others kept.
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
    parser.add_argument("--transform", nargs="*", help="only these")
    arguments = parser.parse_args()
    sys.path.insert(0, str(ROOT))
    warnings.simplefilter("ignore")
    import jax

    jax.config.update("jax_num_cpu_devices", 8)
    from tests.laws import wrapped

    names = wrapped.OURS + wrapped.THEIRS
    results = json.loads(FILE.read_text()) if FILE.exists() else {}
    chosen, again = arguments.wrapper or list(wrapped.WRAPPERS), arguments.transform or names
    for wrapper in chosen:
        kept = results.get(wrapper, {}) if arguments.transform else {}
        results[wrapper] = {
            "tried": [name for name in kept.get("tried", ()) if name not in again],
            "not applicable": [name for name in kept.get("not applicable", ()) if name not in again],
            "faults": {name: laws for name, laws in kept.get("faults", {}).items() if name not in again},
        }
    start = time.monotonic()
    for number, name in enumerate(again):
        for wrapper in chosen:
            found = wrapped.new_faults(wrapper, name)
            results[wrapper]["not applicable" if found is None else "tried"].append(name)
            if found:
                results[wrapper]["faults"][name] = found
                print(f"{wrapper} around {name}: {found}", flush=True)
        print(f"{number + 1} of {len(again)}: {name}, {time.monotonic() - start:.0f} s", flush=True)
        jax.clear_caches()
        for wrapper in chosen:
            for row in ("tried", "not applicable"):
                results[wrapper][row].sort(key=names.index)
        kept = {wrapper: results[wrapper] for wrapper in wrapped.WRAPPERS if wrapper in results}
        FILE.write_text(json.dumps(kept, indent=1) + "\n")


if __name__ == "__main__":
    main()
