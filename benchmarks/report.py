"""Figures as words: the table of a case on the terminal, and the tables of docs/guide/speed.md from a file of results.

python -m benchmarks --from benchmarks/results/speed-cpu.json --guide docs/guide/speed.md
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

from benchmarks.cases import LIMIT
from benchmarks.methods import FLAT, FUSED, METHODS, OURS, THEIRS
from benchmarks.training import GRADIENT
from benchmarks.wrappers import PAIRS

Case = Mapping[str, Any]
HEADINGS = (
    "ms (p10 - p90)", "of limit", "GB/s", "state B", "temp MB", "equations", "once", "kernels", "trace",
    "lower", "compile s",
)  # fmt: skip
WIDTHS = (30, 9, 7, 8, 9, 10, 7, 8, 7, 7, 10)


def digits(value: float) -> str:
    """Three digits that count."""
    return f"{value:.0f}" if value >= 100 else f"{value:.1f}" if value >= 10 else f"{value:.2f}"


def between(x: Mapping[str, float]) -> str:
    return f"{digits(x['median'])} ({digits(x['p10'])} - {digits(x['p90'])})"


def seconds(value: float) -> str:
    return f"{value:.2f}" if value < 10 else f"{value:.0f}"


def cells(case: Case, x: Mapping[str, Any]) -> list[str]:
    """A row of the terminal's table; equations and kernels are those a leaf."""
    leaves = case["leaves"]

    def maybe(name: str, form: Any) -> str:
        return form(x[name]) if name in x else ""

    return [
        between(x["milliseconds"]),
        maybe("of_limit", lambda y: f"{y['median']:.2f}"),
        maybe("gigabytes_a_second", digits),
        maybe("state_bytes_a_number", lambda y: f"{y:.2f}"),
        maybe("temporary_bytes", lambda y: digits(y / 1e6)),
        maybe("equations", lambda y: f"{y / leaves:.1f}"),
        maybe("equations_once", lambda y: f"{y / leaves:.1f}"),
        maybe("kernels", lambda y: f"{y / leaves:.1f}"),
        maybe("trace_seconds", seconds),
        maybe("lower_seconds", seconds),
        maybe("compile_seconds", seconds) or maybe("first_seconds", lambda y: f"first {seconds(y)}"),
    ]


def lines(case: Case) -> Iterable[str]:
    """A case as it is printed when it is done."""
    about = f"{case['rounds']} rounds, {case['quiet_rounds']} quiet"
    yield f"\n{case['section']}: {case['method']}, {case['tree']}; {about}"
    yield f"  {'':28s}" + "".join(f"{h:>{w}}" for h, w in zip(HEADINGS, WIDTHS, strict=True))
    for name, x in case["entrants"].items():
        if "left_out" in x:
            yield f"  {name:28s}  left out: {x['left_out']}"
        else:
            yield f"  {name:28s}" + "".join(f"{c:>{w}}" for c, w in zip(cells(case, x), WIDTHS, strict=True))
    for pair, x in case["ratios"].items():
        gap = case["largest_difference"].get(pair)
        yield f"  {pair:44s} {between(x)}" + (f"   parameters differ by {gap:.1e}" if gap is not None else "")


# ------------------------------------------------------------------------------------------------ Markdown


def markdown(rows: Sequence[Sequence[str]]) -> str:
    head, *body = rows
    ruled = [head, ["---"] * len(head), *body]
    return "\n".join("| " + " | ".join(row) + " |" for row in ruled)


def the(cases: Sequence[Case], section: str, **wanted: str) -> list[Case]:
    return [c for c in cases if c["section"] == section and all(c[k] == v for k, v in wanted.items())]


def ratio_of(case: Case, name: str, base: str) -> str:
    pair = case["ratios"].get(f"{name} : {base}")
    return between(pair) if pair else ""


def step_row(case: Case, name: str, x: Mapping[str, Any]) -> list[str]:
    row = [
        name,
        digits(x["milliseconds"]["median"]),
        ratio_of(case, name, THEIRS),
        ratio_of(case, name, FUSED),
        f"{x['of_limit']['median']:.2f}" if "of_limit" in x and name != LIMIT else "",
        digits(x["gigabytes_a_second"]),
    ]
    if "equations" not in x:
        return [*row, *[""] * 5]
    leaves, built = case["leaves"], (x[f"{part}_seconds"] for part in ("trace", "lower", "compile"))
    each = [f"{x[name] / leaves:.1f}" for name in ("equations", "kernels")]
    return [
        *row,
        f"{digits(x['temporary_bytes'] / 1e6)} MB",
        *(f"{seconds(t)} s" for t in built),
        " / ".join(each),
    ]


def steps(cases: Sequence[Case]) -> str:
    """Clipped AdamW: all entrants, tree by tree."""
    head = [
        "",
        "ms",
        ": Optax",
        ": torch fused",
        "of limit",
        "GB/s",
        "temporary",
        "trace",
        "lower",
        "compile",
    ]
    rows = [[*head, "equations / kernels a leaf"]]
    for case in the(cases, "methods", method="adamw"):
        rows.append([f"**{case['tree']}**", *[""] * 10])
        for name, x in case["entrants"].items():
            left = x.get("left_out")
            rows.append([name, f"- ({left})", *[""] * 9] if left else step_row(case, name, x))
    return markdown(rows)


def recipes(cases: Sequence[Case]) -> str:
    """Nine recipes: the ratio to Optax on each tree, and what they allocate on the largest."""
    trees = list(dict.fromkeys(c["tree"] for c in the(cases, "methods")))
    largest = max(the(cases, "methods"), key=lambda c: c["numbers"])["tree"]
    rows = [["", *trees, f"temporary MB, {largest.partition(',')[0]}: Optax > gradxform"]]
    for method in METHODS:
        found = {c["tree"]: c for c in the(cases, "methods", method=method)}
        row = [method]
        for tree in trees:
            plain, flat = (ratio_of(found[tree], name, THEIRS) for name in (OURS, FLAT))
            row.append("; ".join(filter(None, (plain, flat and f"bucketed {flat}"))) or "-")
        held = [found[largest]["entrants"][name].get("temporary_bytes") for name in (THEIRS, OURS)]
        rows.append([*row, " > ".join("-" if b is None else digits(b / 1e6) for b in held)])
    return markdown(rows)


def pairs(cases: Sequence[Case], section: str) -> str:
    """The ratios of a section, a column for each of its cases; temporary bytes and first calls of who is compared."""
    found = the(cases, section)
    names = list(dict.fromkeys(pair for case in found for pair in case["ratios"]))
    rows = [["", *(f"{c['method']}, {c['tree']}" for c in found)]]
    rows += [
        [name, *(between(c["ratios"][name]) if name in c["ratios"] else "-" for c in found)] for name in names
    ]
    kept = [("temporary of", "temporary_bytes", lambda y: f"{digits(y / 1e6)} MB")]
    kept += [("first call of", "first_seconds", lambda y: f"{seconds(y)} s")]
    for words, field, form in kept:
        for name in dict.fromkeys(name for case in found for name in case["entrants"]):
            values = [c["entrants"].get(name, {}).get(field) for c in found]
            if any(value is not None for value in values):
                rows.append([f"{words} {name}", *("-" if y is None else form(y) for y in values)])
    return markdown(rows)


def share(cases: Sequence[Case]) -> str:
    """A whole training step, and how much of it is the update."""
    rows = [["", "step : Optax's", "update's share, Optax", "update's share", "temporary: Optax > gradxform"]]
    for case in the(cases, "training step"):
        for name in (OURS, FLAT):
            pair = case["ratios"].get(f"{name} : {THEIRS}")
            if pair is None:
                continue
            alone = case["entrants"][GRADIENT]["milliseconds"]["median"]
            shares = [1 - alone / case["entrants"][n]["milliseconds"]["median"] for n in (THEIRS, name)]
            held = [case["entrants"][n]["temporary_bytes"] / 1e6 for n in (THEIRS, name)]
            rows.append([f"{name}, {case['tree']}", between(pair), *(f"{100 * s:.0f} %" for s in shares),
                         " > ".join(map(digits, held)) + " MB"])  # fmt: skip
    return markdown(rows)


def made_on(results: Mapping[str, Any]) -> str:
    m = results["machine"]
    about = [m["processor"], f"{m['cores']} cores", m.get("memory", ""), f"Python {m['python']}"]
    about += [f"{name} {m[name]}" for name in ("jax", "optax", "torch") if m.get(name)]
    quiet = sum(c["quiet_rounds"] for c in results["cases"])
    rounds = sum(c["rounds"] for c in results["cases"])
    return f"{', '.join(filter(None, about))}; {quiet} of {rounds} rounds began on idle cores."


def tables(results: Mapping[str, Any]) -> dict[str, str]:
    """Every table that a page may ask for with `<!-- table: NAME -->`."""
    cases = results["cases"]
    made = {
        "machine": made_on(results),
        "steps": steps(cases),
        "recipes": recipes(cases),
        "training": share(cases),
    }
    return made | {name: pairs(cases, name) for name in (*PAIRS, "eager", "few bits", "muon")}


PLACE = re.compile(r"(<!-- table: speed, (?P<name>[\w ]+) -->\n).*?(<!-- end of the table -->)", re.S)


def filled(page: str, made: Mapping[str, str]) -> str:
    """The page with its tables anew. Narrow columns do not break a range or a unit from its number."""

    def one(found: re.Match[str]) -> str:
        text = re.sub(r"(?<=\d) (?=(?:s|MB|%) \|)", "\N{NO-BREAK SPACE}", made[found["name"]])
        text = re.sub(
            r"(?<=\d) - (?=\d)", "\N{NO-BREAK SPACE}\N{NON-BREAKING HYPHEN}\N{NO-BREAK SPACE}", text
        )
        return f"{found[1]}{text}\n{found[3]}"

    return PLACE.sub(one, page)
