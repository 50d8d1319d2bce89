"""Writes the results of benchmarks and long checks: a table on the screen, results/NAME.json, and an exit code."""

import json
import os
import platform
import statistics
from collections.abc import Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any


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
    """Figures of one run of one benchmark. Only the figures that `at_least` and `at_most` add have bounds, and so
    decide the exit code.
    """

    name: str
    figures: list[Figure] = field(default_factory=list)

    def add(
        self, name: str, value: float, unit: str = "", *, at_least: float | None = None, at_most: float | None = None
    ) -> None:
        self.figures.append(Figure(name, value, unit, at_least, at_most))

    def finish(self, folder: Path = Path("results")) -> int:
        """Prints the figures and which bounds were missed, and writes results/NAME.json. Returns the exit code: 1 if a
        figure misses its bound, else 0.
        """
        print_table(
            ("", "", "", "bound", ""),
            [
                (
                    figure.name,
                    f"{figure.value:,.{count_decimals(figure.value)}f}",
                    figure.unit,
                    figure.bound,
                    figure.verdict,
                )
                for figure in self.figures
            ],
        )
        missed = [figure.name for figure in self.figures if not figure.holds]
        bounds = sum(bool(figure.bound) for figure in self.figures)
        print(f"{self.name}: {'MISSED: ' + '; '.join(missed) if missed else f'all {bounds} bounds hold'}")
        result = {
            "name": self.name,
            "holds": not missed,
            "cores": os.cpu_count(),
            "machine": platform.machine(),
            "figures": [asdict(figure) for figure in self.figures],
        }
        write_result(folder, self.name, result)
        return 1 if missed else 0


def write_result(folder: Path, name: str, result: dict[str, Any]) -> None:
    folder.mkdir(parents=True, exist_ok=True)
    (folder / f"{name}.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


def print_table(header: Sequence[str], rows: Sequence[Sequence[str]]) -> None:
    """Prints a table. The first, third and fifth column are aligned left, the others right."""
    all_rows = [header, *rows] if any(header) else list(rows)
    widths = [max(len(row[column]) for row in all_rows) for column in range(len(header))]
    for row in all_rows:
        first, *others = (
            cell.ljust(width) if column in (0, 2, 4) else cell.rjust(width)
            for column, (cell, width) in enumerate(zip(row, widths, strict=True))
        )
        print("  ".join([first, *others]).rstrip())


def count_decimals(value: float) -> int:
    """Returns the number of decimals with which a value shows about three digits."""
    return 0 if abs(value) >= 100 or value == int(value) else 1 if abs(value) >= 10 else 2


def percentile(values: Sequence[float], percent: float) -> float:
    """Returns the value that `percent` % of the values do not exceed."""
    ordered = sorted(values)
    return ordered[min(len(ordered) - 1, int(len(ordered) * percent / 100))]


def median(values: Sequence[float]) -> float:
    return statistics.median(values)
