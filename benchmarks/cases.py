"""A case: entrants that do the same work, timed in one set of rounds, and what is said of them."""

from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any, NamedTuple

from benchmarks.entrants import GRADIENT_AND_PARAMETER, NORM, Entrant, LeftOut, Make, closing, difference
from benchmarks.rounds import ratio, spread, take_turns
from benchmarks.shapes import Shapes
from benchmarks.trees import size

NATIVE = "C, "
LIMIT = f"{NATIVE}in place"


class Options(NamedTuple):
    """What the command was asked for."""

    quick: bool = False
    tree: str = ""  # trees whose name contains this
    rounds: int = 15
    budget: float = 20.0  # seconds of rounds, a case
    limit: float = 60.0  # seconds to compile, of what may not come to an end
    patience: float = 2.0  # seconds to wait for idle cores before a round
    torch_python: str | None = None

    def among(self, trees: Mapping[str, Shapes], quick: Mapping[str, Shapes]) -> list[tuple[str, Shapes]]:
        """The trees to run on."""
        return [
            (name, shapes) for name, shapes in (quick if self.quick else trees).items() if self.tree in name
        ]


class Case(NamedTuple):
    """Who is compared on what. A pair (a, b) asks for the time of a over that of b."""

    section: str
    tree: str
    method: str
    shapes: Shapes
    entrants: Mapping[str, Make]
    pairs: Sequence[tuple[str, str]]
    moved: float | None = (
        GRADIENT_AND_PARAMETER + NORM
    )  # bytes a number beside twice the state; None: unknown
    same: bool = True  # all do the same steps, so that their parameters can be compared

    @property
    def name(self) -> str:
        return f"{self.section}: {self.method}, {self.tree}"


Section = Callable[[Options], Iterator[Case]]


def prepare(case: Case, say: Callable[[str], None]) -> tuple[dict[str, Entrant], dict[str, str]]:
    """Those that can take part, built one after the other, and why the others cannot."""
    there: dict[str, Entrant] = {}
    left_out: dict[str, str] = {}
    for name, make in case.entrants.items():
        say(f"{case.name}: {name}")
        try:
            there[name] = make()
        except LeftOut as reason:
            left_out[name] = str(reason)
    return there, left_out


def moved(case: Case, entrant: Entrant) -> float | None:
    """The bytes a number that a step has to read and write, if each is touched as often as the method must."""
    if "bytes_a_number" in entrant.facts:
        return entrant.facts["bytes_a_number"]
    state = entrant.facts.get("state_bytes_a_number")
    return None if state is None or case.moved is None else case.moved + 2 * state


def row(case: Case, name: str, there: Mapping[str, Entrant], seconds: Mapping[str, list[float]]) -> Any:
    """The figures of one entrant."""
    entrant, times = there[name], seconds[name]
    figures: dict[str, Any] = {"milliseconds": spread([1e3 * t for t in times])._asdict(), **entrant.facts}
    own = moved(case, entrant)
    if own is not None:
        numbers = entrant.facts["numbers"]
        figures |= {"bytes_a_number": own, "gigabytes_a_second": own * numbers / spread(times).median / 1e9}
        if LIMIT in there:
            scale = own / there[LIMIT].facts["bytes_a_number"]
            figures["of_limit"] = ratio([scale * t for t in seconds[LIMIT]], times)._asdict()
    return figures


def measure(case: Case, options: Options, say: Callable[[str], None] = lambda text: None) -> dict[str, Any]:
    """Builds all, runs the rounds, and lets go of everything."""
    there, left_out = prepare(case, say)
    try:
        say(f"{case.name}: rounds")
        alone = all(name.startswith(NATIVE) for name in there)  # the machine with nobody beside it
        turns = {} if alone else {name: entrant.turn for name, entrant in there.items()}
        got = take_turns(
            turns,
            options.rounds,
            options.budget,
            options.patience,
        )
        pairs = [(a, b) for a, b in case.pairs if a in there and b in there]
        differences = {f"{a} : {b}": difference(there[a], there[b]) for a, b in pairs if case.same}
        return {
            "section": case.section,
            "tree": case.tree,
            "method": case.method,
            "leaves": len(case.shapes),
            "numbers": size(case.shapes),
            "rounds": max((len(times) for times in got.seconds.values()), default=0),
            "quiet_rounds": got.quiet,
            "entrants": {
                name: row(case, name, there, got.seconds)
                if name in turns
                else {"left_out": left_out.get(name, "there is nobody to compare")}
                for name in case.entrants
            },
            "ratios": {f"{a} : {b}": ratio(got.seconds[a], got.seconds[b])._asdict() for a, b in pairs},
            "largest_difference": {pair: gap for pair, gap in differences.items() if gap is not None},
        }
    finally:
        closing(there)
