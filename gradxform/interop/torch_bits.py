"""Runs with bitsandbytes' Adam and AdamW, of 8 and 32 bits, as runs with torch's: their codes become float32."""

from dataclasses import replace
from typing import Any

import numpy as np

from .._core.eight_bits import Entry
from .._core.errors import say
from .torch_run import TorchRun

#: Their Adam decays like AdamW. A class of the same name as one of torch's is told by its arrays.
_PREFIXES, _SUFFIXES = ("", "Paged"), ("8bit", "32bit", "")
EIGHT_BITS = {f"{a}{name}{b}" for a in _PREFIXES for name in ("Adam", "AdamW") for b in _SUFFIXES if a or b}


def is_of_bitsandbytes(run: TorchRun) -> bool:
    """Whether the state is one of bitsandbytes'."""
    return run.optimizer in EIGHT_BITS or any("state1" in slots for slots in run.state.values())


def plain(run: TorchRun, who: str) -> TorchRun:
    """The run as one of torch's AdamW."""
    if run.optimizer not in (*EIGHT_BITS, "Adam", "AdamW"):
        fact = f"{who}: of bitsandbytes' optimizers Adam and AdamW are read, got {run.optimizer!r}"
        raise ValueError(say(fact, f"known are {', '.join(sorted(EIGHT_BITS))}"))
    state: dict[str, dict[str, np.ndarray]] = {}
    for name, slots in run.state.items():
        entry = Entry(slots, repr(name), who)
        shape = run.weights[name].shape if name in run.weights else np.shape(entry.parts.get("state1", ()))
        try:
            moments = {"exp_avg": entry.moment(1, shape), "exp_avg_sq": entry.moment(2, shape)}
        except KeyError as problem:
            raise ValueError(problem.args[0]) from None
        state[name] = moments | {"step": np.asarray(entry.step, np.float32)}
    groups = tuple(_options(group, who) for group in run.groups)
    return replace(run, optimizer="AdamW", state=state, groups=groups)


def _options(group: dict[str, Any], who: str) -> dict[str, Any]:
    """What AdamW knows of a group's options; that the others are not in use is looked at."""
    known = {"lr", "initial_lr", "betas", "eps", "weight_decay", "names"}
    # AdEMAMix's; a run without it has them as None or 0. The rest says how, not what.
    used = [key for key in ("alpha", "t_alpha", "t_beta3") if group.get(key)]
    if used:
        raise ValueError(say(f"{who}: {', '.join(used)} of the group are AdEMAMix's, not Adam's"))
    return {key: x for key, x in group.items() if key in known} | {"amsgrad": False}
