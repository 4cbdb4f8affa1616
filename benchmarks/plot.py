"""A picture of clipped AdamW's steps: entrants as bars, the machine's limit as a line, a panel for each tree."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from benchmarks.cases import LIMIT
from benchmarks.methods import FLAT, FUSED, OURS, THEIRS
from benchmarks.report import digits

# Okabe and Ito's colours, which differ for all kinds of eyes; ours are the two blues.
COLOURS = {
    OURS: "#0072B2",
    FLAT: "#56B4E9",
    THEIRS: "#E69F00",
    FUSED: "#009E73",
    "torch, foreach": "#999999",
}
BESIDE = "#333333"


def panel(axes: Any, case: Mapping[str, Any]) -> None:
    names = [name for name in COLOURS if name in case["entrants"]]
    top = 0.0
    for place, name in enumerate(names):
        x = case["entrants"][name]
        if "left_out" in x:
            axes.text(
                0,
                place,
                f" left out: {x['left_out'].partition(':')[0].partition('(')[0]}",
                va="center",
                fontsize=8,
                color=BESIDE,
            )
            continue
        times = x["milliseconds"]
        whisker = [[times["median"] - times["p10"]], [times["p90"] - times["median"]]]
        axes.barh(
            place, times["median"], xerr=whisker, color=COLOURS[name], height=0.7, ecolor=BESIDE, capsize=2
        )
        pair = case["ratios"].get(f"{name} : {THEIRS}")
        text = f" {digits(times['median'])} ms" + (f", {pair['median']:.2f} of Optax" if pair else "")
        axes.text(times["p90"], place, text, va="center", fontsize=8, color=BESIDE)
        top = max(top, times["p90"])
    if "milliseconds" in case["entrants"].get(LIMIT, {}):
        axes.axvline(
            case["entrants"][LIMIT]["milliseconds"]["median"], color=BESIDE, linestyle="--", linewidth=1
        )
    axes.set_xlim(0, 1.55 * top if top else 1)
    axes.set_yticks(range(len(names)), names, fontsize=8)
    axes.set_ylim(len(names) - 0.5, -0.5)
    axes.set_title(case["tree"], fontsize=9, loc="left")
    axes.tick_params(axis="x", labelsize=8)
    axes.spines[["top", "right"]].set_visible(False)


def draw(results: Mapping[str, Any], path: Path) -> None:
    """Writes the picture."""
    import matplotlib

    matplotlib.use("agg")
    from matplotlib import pyplot

    cases = [c for c in results["cases"] if c["section"] == "methods" and c["method"] == "adamw"]
    figure, panels = pyplot.subplots(
        (len(cases) + 1) // 2, 2, figsize=(10, 2.3 * ((len(cases) + 1) // 2)), squeeze=False
    )
    for axes, case in zip(panels.flat, cases, strict=False):
        panel(axes, case)
    for axes in list(panels.flat)[len(cases) :]:
        axes.axis("off")
    for axes in panels[-1]:
        axes.set_xlabel("milliseconds a step; dashed: an in-place loop in C", fontsize=8)
    figure.suptitle("Clipped AdamW with a schedule and a decay mask", fontsize=10, x=0.01, ha="left")
    figure.tight_layout()
    figure.savefig(path, dpi=150)
    pyplot.close(figure)
