"""Several transforms for the same parameters, side by side: what each takes, and what it saves against the first."""

from dataclasses import dataclass
from typing import Any

from .._core.report import align, size_text


@dataclass(frozen=True)
class Comparison:
    """The table as text (`str`), and its reports, for programs.

    Attributes:
        reports: a `Memory` for each transform, by its name; the first is the one that the others are held against.
    """

    reports: dict[str, Any]

    def times(self, name: str) -> float:
        """Parameters and state over the parameters: 1 for plain SGD, 3 for Adam in the dtype of the parameters."""
        parameters = self.reports[name].total("parameters").bytes
        return (parameters + self.reports[name].total("state").bytes) / parameters if parameters else 1.0

    def saved(self, name: str) -> tuple[int, int]:
        """Bytes of each device that are less than with the first transform, and those in host memory that are more."""
        first, other = next(iter(self.reports.values())), self.reports[name]
        return first.device_bytes - other.device_bytes, other.host_bytes - first.host_bytes

    @property
    def data(self) -> dict[str, Any]:
        """The same as plain dicts, lists, numbers and strings, for JSON."""
        found: list[dict[str, Any]] = []
        for name, report in self.reports.items():
            saved, host = self.saved(name)
            extra = {"times": self.times(name), "saved_device_bytes": saved, "more_host_bytes": host}
            found.append({"name": name, **report.data, **extra})
        return {"transforms": found}

    def __str__(self) -> str:
        first = next(iter(self.reports.values()))
        return "\n".join([f"on {first.where}", "", *self._table(), "", *self._savings()])

    __repr__ = __str__

    def _table(self) -> list[str]:
        reports = list(self.reports.values())
        several, away = reports[0].devices > 1, any(r.host_bytes for r in reports)
        stepped = any(r.temporary is not None for r in reports)
        head = ["transform", "parameters", "gradients", "state", "all", "times"]
        head += ["a device"] if several else []
        head += ["on the host"] if away else []
        head += ["step"] if stepped else []
        lines = [head]
        for name, report in self.reports.items():
            parts = [report.total(part).bytes for part in ("parameters", "gradients", "state")]
            line = [name, *(size_text(x) for x in (*parts, sum(parts))), f"{self.times(name):.2f}x"]
            line += [size_text(report.device_bytes)] if several else []
            line += [size_text(report.host_bytes)] if away else []
            line += ["-" if report.temporary is None else size_text(report.temporary)] if stepped else []
            lines.append(line)
        return align(lines, right=range(1, len(head)))

    def _savings(self) -> list[str]:
        base, *others = self.reports
        each = "each device" if self.reports[base].devices > 1 else "the device"
        lines = ["times: parameters and state over the parameters"]
        for name in others:
            saved, host = self.saved(name)
            share = 100 * saved / (self.reports[base].device_bytes or 1)
            if saved:
                word = "saves" if saved > 0 else "costs"
                text = f"{name} {word} {each} {size_text(abs(saved))} against {base} ({abs(share):.1f} %)"
            else:
                text = f"{name} takes as much as {base}"
            lines.append(f"{text}, and takes {size_text(host)} of host memory" if host > 0 else text)
        return lines
