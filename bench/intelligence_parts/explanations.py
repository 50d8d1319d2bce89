"""Measures how often the excerpts of failed builds' logs contain the lines that a person marked as the explanation.

The logs and marks are those of LogChunks (Brandt, Panichella, Beller: "LogChunks: A Data Set for Build Log Analysis",
MSR 2020): XML files, and the logs in archives beside them. The ranking was settled on one half of the logs, chosen by
name; the other half is reported and has the bounds. Beside it stand two simple rules: the last lines of the log, and
the lines around the first word "error".
"""

import hashlib
import html
import re
import tarfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from bench.support.report import Report
from domain.failures.log_explanations import MAX_EXCERPTS, MAX_LINES, explain

FOLDER = "failure-chunks"
MIN_KEY = 8
"""Letters and digits that a line must have to find the marked part by it."""
LARGE_LOG = 200_000
"""Lines of the log with which the speed is measured."""

Ranges = Sequence[tuple[int, int]]
"""First and last line of each excerpt, from 0."""


class MarkedLog(NamedTuple):
    name: str
    text: str
    mark: str

    @property
    def half(self) -> int:
        """0 for logs that the ranking was settled on, 1 for logs that are reported."""
        return hashlib.sha256(self.name.encode()).digest()[0] % 2

    @property
    def lines(self) -> list[str]:
        return self.text.split("\n")


class Score(NamedTuple):
    first: int
    any: int
    logs: int


def read_logs(folder: Path) -> Iterator[MarkedLog]:
    """Yields the logs that have marks. Logs whose marked part cannot be found in them are left out."""
    texts: dict[str, str] = {}
    for archive in sorted(folder.glob("*.tar.gz")):
        with tarfile.open(archive) as members:
            for member in members:
                if member.isfile() and (content := members.extractfile(member)) is not None:
                    texts[member.name.removeprefix("./")] = content.read().decode("utf-8", "replace")
    for path in sorted(folder.glob("*.xml")):
        for example in re.findall(r"<Example>(.*?)</Example>", path.read_text("utf-8", "replace"), re.DOTALL):
            name, mark = (_content(example, tag) for tag in ("Log", "Chunk"))
            if name.strip() in texts:
                log = MarkedLog(name.strip(), texts[name.strip()], mark)
                if find_mark(log) is not None:
                    yield log


def _content(example: str, tag: str) -> str:
    found = re.search(rf"<{tag}>(.*?)</{tag}>", example, re.DOTALL)
    return html.unescape(found[1]) if found else ""


def find_mark(log: MarkedLog) -> tuple[int, int] | None:
    """Returns the first and last line of the marked part. The marks lack some characters of the log, such as escapes,
    so lines are compared by their letters and digits.
    """
    positions: dict[str, list[int]] = {}
    for number, line in enumerate(log.lines):
        positions.setdefault(_key(line), []).append(number)
    marked = log.mark.split("\n")
    votes = Counter(
        number - offset
        for offset, line in enumerate(marked)
        if len(_key(line)) >= MIN_KEY
        for number in positions.get(_key(line), ())[:200]
    )
    if not votes:
        return None
    first = max(votes, key=lambda number: (votes[number], -number))
    return first, first + len(marked) - 1


def _key(line: str) -> str:
    shown = next((part for part in reversed(line.split("\r")) if part.strip()), "")
    return re.sub(r"[^A-Za-z0-9]+", "", re.sub(r"\x1b?\[[0-9;]*m|\x1b\[[0-9;?]*[A-Za-z]", "", shown))


def rank(lines: list[str]) -> Ranges:
    return [(one.first_line - 1, one.last_line - 1) for one in explain(lines)]


def take_last(lines: list[str]) -> Ranges:
    return [(max(0, len(lines) - MAX_LINES * (number + 1)), len(lines) - MAX_LINES * number - 1) for number in range(3)]


def take_first_error(lines: list[str]) -> Ranges:
    found = [number for number, line in enumerate(lines) if "error" in line.lower()]
    ranges: list[tuple[int, int]] = []
    for number in found:
        if len(ranges) < MAX_EXCERPTS and (not ranges or number > ranges[-1][1]):
            ranges.append((number - 2, number + MAX_LINES - 3))
    return ranges


def score(logs: Sequence[MarkedLog], choose: Callable[[list[str]], Ranges]) -> Score:
    first = overlapping = 0
    for log in logs:
        mark = find_mark(log)
        assert mark is not None
        hits = [low <= mark[1] and high >= mark[0] for low, high in choose(log.lines)]
        assert all(high - low < MAX_LINES for low, high in choose(log.lines))
        first += hits[:1] == [True]
        overlapping += any(hits)
    return Score(first, overlapping, len(logs))


def run(report: Report, data: Path) -> None:
    logs = list(read_logs(data / FOLDER))
    settled, others = ([log for log in logs if log.half == half] for half in (0, 1))
    report.add("explanations: logs, those of the other half", len(others))
    for name, choose in (("last lines", take_last), ('first "error"', take_first_error)):
        found = score(others, choose)
        report.add(f"explanations: {name}: marked part in the first excerpt", 100 * found.first / found.logs, "%")
        report.add(f"explanations: {name}: marked part in three excerpts", 100 * found.any / found.logs, "%")
    found = score(settled, rank)
    report.add("explanations: marked part in the first excerpt, half settled on", 100 * found.first / found.logs, "%")
    found = score(others, rank)
    report.add("explanations: marked part in the first excerpt", 100 * found.first / found.logs, "%", at_least=75)
    report.add("explanations: marked part in three excerpts", 100 * found.any / found.logs, "%", at_least=90)
    sizes = [high - low + 1 for log in others for low, high in rank(log.lines)[:1]]
    report.add("explanations: lines of a first excerpt, mean", sum(sizes) / len(sizes), at_most=MAX_LINES)
    lines = [line for log in logs for line in log.lines][:LARGE_LOG]
    begun = time.process_time()
    explain(lines)
    report.add("explanations: time for each line", (time.process_time() - begun) / len(lines) * 1e6, "µs")
