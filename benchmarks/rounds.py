"""Timing in rounds: all entrants take turns, and what is compared has run within the same round.

Machines drift and neighbours come and go; the ratio of two turns of one round suffers least. In each round another
entrant is first, so that nobody always follows the same neighbour.
"""

import os
import statistics
import time
from collections.abc import Callable, Mapping, Sequence
from typing import NamedTuple

PAUSE = 0.005  # between turns, so that the threads of the last one have gone to sleep
IDLE = 0.12  # a machine that is busier than this is not quiet
FEWEST = 5

Turn = Callable[[], float]


class Spread(NamedTuple):
    """The median, and between which values the middle 80 % are."""

    median: float
    p10: float
    p90: float


def spread(values: Sequence[float]) -> Spread:
    ordered, tenth = sorted(values), len(values) // 10
    return Spread(statistics.median(ordered), ordered[tenth], ordered[-1 - tenth])


def ratio(times: Sequence[float], base: Sequence[float]) -> Spread:
    """How many times as long it takes, round by round."""
    return spread([a / b for a, b in zip(times, base, strict=True)])


def load() -> tuple[float, float] | None:
    """Busy and total processor time so far, or None where the system does not say."""
    try:
        with open("/proc/stat") as file:
            ticks = [int(x) for x in file.readline().split()[1:9]]
    except OSError:
        return None
    return float(sum(ticks) - ticks[3] - ticks[4]), float(sum(ticks))


def quiet(patience: float = 2.0) -> bool:
    """Waits until nothing else runs, at most so many seconds; whether it became quiet."""
    end, before = time.perf_counter() + patience, load()
    while before is not None and time.perf_counter() < end:
        time.sleep(0.1)
        after = load()
        if after is None or (after[0] - before[0]) < IDLE * max(1.0, after[1] - before[1]):
            return True
        before = after
    return False


class Rounds(NamedTuple):
    """The seconds of every turn by entrant, and how many rounds began on idle cores."""

    seconds: dict[str, list[float]]
    quiet: int


def take_turns(turns: Mapping[str, Turn], rounds: int, budget: float = 60.0, patience: float = 2.0) -> Rounds:
    """Runs every turn once a round; `rounds` of them, fewer (but 5) where they take more seconds than `budget`."""
    names = list(turns)
    seconds: dict[str, list[float]] = {name: [] for name in names}
    for name in [*names, *names]:  # twice for nothing: the first turn has pages to fetch
        turns[name]()
    start, idle = time.perf_counter(), 0
    for number in range(rounds if names else 0):
        if number >= FEWEST and time.perf_counter() - start > budget:
            break
        idle += quiet(patience)
        first = number % len(names)
        for name in names[first:] + names[:first]:
            time.sleep(PAUSE)
            seconds[name].append(turns[name]())
    return Rounds(seconds, idle)


def cores() -> int:
    """The processors that this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1
