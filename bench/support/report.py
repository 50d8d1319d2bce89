"""What a benchmark says: a table on the screen, results/NAME.json, and an exit code."""

import json
import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path


@dataclass(frozen=True)
class Figure:
    name: str
    value: float
    unit: str = ""
    at_least: float | None = None
    at_most: float | None = None

    @property
    def holds(self) -> bool:
        return (self.at_least is None or self.value >= self.at_least) and (
            self.at_most is None or self.value <= self.at_most
        )

    @property
    def bound(self) -> str:
        if self.at_least is not None:
            return f">= {self.at_least:g}"
        return f"<= {self.at_most:g}" if self.at_most is not None else ""

    @property
    def verdict(self) -> str:
        return "" if not self.bound else "ok" if self.holds else "MISSED"


@dataclass
class Report:
    """One run of one benchmark. `at_least` and `at_most` are its bounds; a figure without one is only told."""

    name: str
    figures: list[Figure] = field(default_factory=list)

    def add(
        self, name: str, value: float, unit: str = "", *, at_least: float | None = None, at_most: float | None = None
    ) -> None:
        self.figures.append(Figure(name, value, unit, at_least, at_most))

    def finish(self, folder: Path = Path("results")) -> int:
        """Prints and writes; the exit code: 1 when a bound was missed."""
        table(
            ("", "", "", "bound", ""),
            [
                (figure.name, f"{figure.value:,.{digits(figure.value)}f}", figure.unit, figure.bound, figure.verdict)
                for figure in self.figures
            ],
        )
        holds = all(figure.holds for figure in self.figures)
        folder.mkdir(parents=True, exist_ok=True)
        result = {
            "name": self.name,
            "holds": holds,
            "cores": os.cpu_count(),
            "machine": platform.machine(),
            "figures": [asdict(figure) for figure in self.figures],
        }
        (folder / f"{self.name}.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
        return 0 if holds else 1


def table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """First column to the left, numbers to the right."""
    every = [header, *rows] if any(header) else list(rows)
    widths = [max(len(row[column]) for row in every) for column in range(len(header))]
    for row in every:
        first, *others = (
            cell.ljust(width) if column in (0, 2, 4) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        print("  ".join([first, *others]).rstrip())


def digits(value: float) -> int:
    return 0 if abs(value) >= 100 or value == int(value) else 1 if abs(value) >= 10 else 2


def percentile(values: Sequence[float], percent: float) -> float:
    """The smallest value that so many percent do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def median(values: Sequence[float]) -> float:
    return statistics.median(values)
