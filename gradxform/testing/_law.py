"""A law: one sentence that holds for every transform, and the function that tries to break it."""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

#: What a law may need that not everybody has, and the sentence that says so.
NEEDS = {
    "8 devices": "needs 8 devices: jax.config.update('jax_num_cpu_devices', 8) before JAX starts",
    "strict flags": "needs strict flags: jax_numpy_dtype_promotion='strict' and jax_numpy_rank_promotion='raise'",
    "own trees": "tries trees of its own: leave params= out",
    "own mesh": "lays trees on a mesh of its own: leave mesh= out",
}


@dataclass(frozen=True)
class Law:
    """One law of `gradxform.testing`.

    Args:
        name: its name in reports and in `check_transform(tx, laws=[...])`.
        sentence: what it says.
        function: called with a subject, returns if the law is kept, raises `Broken`, `Inapplicable` or `Unable`.
        needs: of `NEEDS`; where one is missing, the law is not run.
        theme: the group in which it is listed.
    """

    name: str
    sentence: str
    function: Callable[[Any], None]
    needs: tuple[str, ...] = ()
    theme: str = ""


class Broken(Exception):
    """A law is broken: the fact, the trees that show it by name, and the last line of the example."""

    def __init__(self, fact: str, trees: Mapping[str, Any] | None = None, then: str | None = None) -> None:
        super().__init__(fact)
        self.fact, self.trees, self.then = fact, dict(trees or {}), then

    @property
    def kind(self) -> str:
        """Which sort of breach it is: a smaller example must be of the same sort."""
        return "law"


class Raised(Broken):
    """The transform raised where it should have worked."""

    def __init__(self, problem: Exception, trees: Mapping[str, Any], then: str | None) -> None:
        text = str(problem).strip().splitlines()
        super().__init__(f"{type(problem).__name__}: {text[0] if text else ''}"[:300], trees, then)
        self.error = type(problem).__name__

    @property
    def kind(self) -> str:
        return self.error


class Inapplicable(Exception):
    """The law does not speak of this transform; the message says why."""


class Unable(Exception):
    """The law could not be tried here; the message says what is missing."""


_LAWS: dict[str, Law] = {}
#: The order of reports.
THEMES = (
    "starting",
    "forms",
    "running",
    "folding",
    "leaves",
    "trees",
    "finite",
    "direction",
    "precision",
    "refusals",
    "storing",
    "values",
    "devices",
    "shards",
)


def law(sentence: str, *needs: str) -> Callable[[Callable[[Any], None]], Callable[[Any], None]]:
    """Puts a function into the list of laws, under its own name."""

    def register(function: Callable[[Any], None]) -> Callable[[Any], None]:
        theme = (function.__module__.rpartition(".")[2]).replace("_", " ")
        _LAWS[function.__name__] = Law(function.__name__, sentence, function, needs, theme)
        return function

    return register


def laws() -> tuple[Law, ...]:
    """Every law, in the order of reports.

    Example:
        >>> from gradxform import testing
        >>> {law.name: law.sentence for law in testing.laws()}["state_form"]
        'a state keeps its structure, shapes, dtypes and weak types'
    """
    return tuple(sorted(_LAWS.values(), key=lambda law: THEMES.index(law.theme)))


def find(names: Any) -> tuple[Law, ...]:
    """The laws of a list of names or laws; all of them for None."""
    if names is None:
        return laws()
    found: list[Law] = []
    for name in [names] if isinstance(names, str | Law) else names:
        if isinstance(name, Law):
            found.append(name)
        elif name in _LAWS:
            found.append(_LAWS[name])
        else:
            raise ValueError(
                f"check_transform(laws=...): there is no law {name!r}; there are {', '.join(_LAWS)}"
            )
    return tuple(found)
