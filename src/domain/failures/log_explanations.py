"""The parts of a build's log that explain its failure: up to three excerpts, found by ranking, with reasons.

One pass over the lines, in linear time and with bounded memory:

1. A line gets a signal (`log_signals.py`). Lines with signals, and the stack frames and indented lines that follow
   them, form a block. A block ends after GAP other lines.
2. The score of a block is the weight of its strongest line, a little more for each further line with a signal and for
   a stack trace.
3. A block counts less if its strongest line, with numbers and paths masked, is known: if the line was in the log before
   (a repeated message says less than a new one), or if the log of the job's last passed build has it, too (`noise`).
4. Once all lines are read, the position of a block counts, too. A block far before the end of the failed step counts
   less, and so does a block after which the build went on: tests passed, steps began. The end of the step is the last
   line that says how a step ended (`exited with 1`, `BUILD FAILED`). Of several failed tests, or errors in sources, the
   first one counts, wherever it is.

Only the CANDIDATES best and the CANDIDATES last blocks are in memory. An excerpt has MAX_LINES lines at most: a screen
full, enough for an assertion with the top of its stack trace.
"""

import heapq
import math
import re
import zlib
from collections import deque
from collections.abc import Collection, Iterable
from typing import Final

import msgspec

from domain.failures.log_signals import (
    Reason,
    Signal,
    begins_pytest_failure,
    clean,
    is_command,
    is_frame,
    is_progress,
    is_shown_source,
    looks_red,
    signal_of,
)

VERSION: Final = 3
"""Version of the ranking. A new version may rank the same log differently."""
MAX_EXCERPTS = 3
MAX_LINES = 30
GAP = 3
"""Number of lines without a signal after which a block ends. Blank lines do not count. Stack frames, and indented lines
that directly follow a line of the block, belong to the block.
"""
HEADER_GAP = 20
"""A block that so far has only the header of a failed test ends after this many lines without a signal, instead of GAP.
pytest, for example, prints the source of the test between this header and the error.
"""
BLOCK_LINES = 400
"""Largest number of lines of a block, so that a log that consists of errors is not one block."""
CONTEXT = 2
"""Largest number of lines that an excerpt shows before its first line with a signal."""
STRONG = 10
"""Least weight of a line that reports a failed test, an error in a source or a time limit."""
MAX_STRENGTH = 16
"""Strength of a block that gets the score 1: a failed test with a stack trace and many further lines with signals."""
CANDIDATES = 64
MAX_FINGERPRINTS = 20_000
"""Largest number of fingerprints of strongest lines that are counted. Blocks with others count as not repeated."""
FIRST_COUNTS: tuple[Reason, ...] = ("test_failure", "source_error")
"""Kinds of signals. Of several blocks whose strongest signal has one of these kinds, the first is chosen, since the
later ones often follow from it. The distance of such a block from the end of the log does not matter.
"""
ALIKE = 0.8
"""An earlier block is chosen instead of the best one if both have the same kind of strongest signal, one of
FIRST_COUNTS, and the earlier block has at least this share of the best score.
"""
PROGRESS_SCALE = 10
"""After a block, this many progress lines, such as passed tests, multiply the block's score by 0.8."""
SIMILAR_FACTOR = 0.6
"""Factor for the score of a block, if a better block has the same kind of strongest signal."""
NOISE_FACTOR = 0.2
"""Factor for the score of a block whose strongest line is also in the log of a passed build."""


class Excerpt(msgspec.Struct, frozen=True):
    """Adjacent lines of a log, from `first_line` to `last_line`. The first line of a log has the number 1."""

    first_line: int
    last_line: int
    first_byte: int
    """Offset in bytes of the first line in the log, if the log is UTF-8 and each line ends in one line feed."""
    last_byte: int
    """Offset in bytes of the end of the last line, without its line feed."""
    score: float
    """Between 0 and 1. Scores can be compared within one log."""
    reasons: tuple[str, ...]
    """The kinds of signals in the block, the strongest first. After them, what made the score lower: `repeated`,
    `in_passed_build` or `after_the_end`. Only `end_of_log` if no line of the log had a signal.
    """


class _Block(msgspec.Struct):
    """Adjacent lines that belong to one failure. Line numbers begin with 0."""

    first: int
    """First line of the excerpt."""
    first_byte: int
    ends: list[int]
    """Offsets in bytes of the ends of the excerpt's lines."""
    last: int
    """Last line that has a signal or belongs to one, such as a stack frame."""
    strongest: int
    """Line with the strongest signal. `fingerprint` and `weight` are those of this line."""
    fingerprint: int
    weight: float
    progress: int = 0
    """Number of progress lines in the log up to `last`, such as passed tests."""
    gap: int = 0
    """Number of lines since `last`, without blank ones."""
    extra: float = 0.0
    """Sum of the weights of the block's other lines with signals."""
    reasons: dict[Reason, float] = {}
    has_frames: bool = False
    occurrence: int = 1
    """Number of blocks with this fingerprint in the log so far, including this one."""
    is_noise: bool = False

    @property
    def leading(self) -> Reason:
        """Kind of the strongest signal."""
        return max(self.reasons, key=lambda reason: self.reasons[reason])

    @property
    def is_header(self) -> bool:
        """Whether the block only names a failed test so far."""
        return self.last == self.strongest and "test_failure" in self.reasons

    @property
    def strength(self) -> float:
        """Score of the block as far as it is known before the end of the log."""
        strength = self.weight + min(self.extra * 0.1, 3.0) + (1.0 if self.has_frames else 0.0)
        return strength * (NOISE_FACTOR if self.is_noise else 1.0) / (1 + 0.2 * math.log2(self.occurrence))


_VOLATILE = re.compile(
    r"(?:[\w.~\-]{0,64}[/\\]){1,40}|\b0[xX][0-9a-fA-F]{1,32}|\b(?=[a-f]{0,63}\d)[0-9a-f]{7,64}\b|\d{1,32}"
)


def fingerprint(line: str) -> int:
    """Returns a number that is equal for lines that differ only in numbers, hashes and paths."""
    return zlib.crc32(_VOLATILE.sub("#", line[:200].strip()).encode("utf-8", "replace"))


def _novelty(block: _Block, chosen: list[_Block]) -> float:
    """Returns a factor for the score of a block. It is less than 1 if the strongest signal of a chosen block has the
    same kind, so that the excerpts show different possible causes.
    """
    return SIMILAR_FACTOR if any(block.leading == other.leading for other in chosen) else 1.0


class Explainer:
    """Reads the lines of a log one after the other. `finish` returns the excerpts."""

    def __init__(self, noise: Collection[int] = ()) -> None:
        """`noise`: fingerprints of the lines in the log of a passed build that look like failures (`find_noise`)."""
        self._noise = noise
        self._line = 0
        self._byte = 0
        self._open: _Block | None = None
        self._before: deque[tuple[int, int, bool]] = deque(maxlen=MAX_LINES)
        """The last lines: offset of the first byte, offset of the end, whether it is blank or repeats a command."""
        self._closed_at = 0
        """First line after the last closed block."""
        self._best: list[tuple[float, int, _Block]] = []
        self._recent: deque[_Block] = deque(maxlen=CANDIDATES)
        self._counts: dict[int, int] = {}
        self._progress = 0
        """Number of progress lines so far, such as passed tests."""
        self._traceback_end = 0
        """Line at which a traceback of pytest ends at the latest, if one has begun."""
        self._is_error_awaited = False
        """Whether the first error of a traceback of pytest that has begun is still to come."""
        self._outcome = -1
        """Last line that says how a step ended; -1 if there was none so far."""

    def add(self, text: str) -> None:
        line = clean(text)
        is_of_traceback = self._is_of_traceback(line)
        is_source = is_of_traceback and not line.startswith("E")
        signal = signal_of(line, looks_red(text)) if line and not is_source else None
        end = self._byte + (len(text) if text.isascii() else len(text.encode("utf-8", "surrogatepass")))
        self._before.append((self._byte, end, not line or is_command(line)))
        if signal is None and is_progress(line):
            self._progress += 1
        if signal is not None:
            self._add_signal(line, signal)
        elif (block := self._open) is not None:
            if is_of_traceback:
                self._belongs(block)
                self._extend(block)
            else:
                self._go_on(block, line)
        self._line += 1
        self._byte = end + 1

    def _is_of_traceback(self, line: str) -> bool:
        """Returns whether the line belongs to a traceback of pytest: as source code, or as an error. Moves the excerpt
        so that it shows the first error, from which the other errors follow.
        """
        if begins_pytest_failure(line):
            self._traceback_end, self._is_error_awaited = self._line + BLOCK_LINES, True
        elif line.startswith(("==", "---")):
            self._traceback_end = self._line
        elif self._line < self._traceback_end and self._open is not None and line.startswith("E  "):
            if self._is_error_awaited:
                self._show(self._open, line)
            self._is_error_awaited = False
            return True
        return self._line < self._traceback_end and is_shown_source(line)

    def _add_signal(self, line: str, signal: Signal) -> None:
        if signal.reason in ("outcome", "time_limit"):
            self._outcome = self._line
        block = self._open
        if block is not None and self._is_new_failure(block, line, signal):
            self._close(block)
            block = None
        if block is None:
            block = self._open = self._begin(line, signal)
        elif signal.weight > block.weight:
            block.extra += block.weight
            block.strongest = self._line
            block.weight = signal.weight
            block.fingerprint = fingerprint(line)
            self._show(block, line)
        else:
            block.extra += signal.weight
        block.reasons[signal.reason] = max(block.reasons.get(signal.reason, 0.0), signal.weight)
        self._belongs(block)
        self._extend(block)

    def _belongs(self, block: _Block) -> None:
        block.last = self._line
        block.progress = self._progress
        block.gap = 0

    def _is_new_failure(self, block: _Block, line: str, signal: Signal) -> bool:
        """Returns whether a line begins a new failure. In a block of weak signals (below STRONG), a strong signal does
        so more than two lines after the block's last line. In a block with a strong signal, a further strong signal
        does so from 3 lines (MAX_LINES for an error in a source) after the block's first line on. A weak signal begins
        a new failure only BLOCK_LINES after the block's first line.
        """
        if signal.weight >= STRONG and block.weight < STRONG:
            return self._line - block.last > 2
        if signal.weight >= STRONG:
            return self._line - block.first >= (MAX_LINES if signal.reason == "source_error" else 3)
        return self._line - block.first >= BLOCK_LINES

    def _show(self, block: _Block, line: str) -> None:
        """Moves the beginning of a block's excerpt to shortly before this line, if the excerpt would end before it."""
        if self._line - block.first >= MAX_LINES - 10:
            first = self._begin(line, Signal(block.weight, block.leading), after=block.first + 1)
            block.first, block.first_byte, block.ends = first.first, first.first_byte, first.ends

    def _begin(self, line: str, signal: Signal, after: int = 0) -> _Block:
        first = self._line
        for back in range(2, min(CONTEXT + 1, len(self._before)) + 1):
            if first - 1 < max(self._closed_at, after) or self._before[-back][2]:
                break
            first -= 1
        lines = [self._before[position] for position in range(-(self._line - first) - 1, 0)]
        ends = [end for _, end, _ in lines[:-1]]
        return _Block(first, lines[0][0], ends, self._line, self._line, fingerprint(line), signal.weight, reasons={})

    def _go_on(self, block: _Block, line: str) -> None:
        """Adds a line without a signal to the open block, or closes the block."""
        if is_frame(line):
            block.has_frames = True
            self._belongs(block)
        elif line[:1] == " " and self._line - block.last <= 1:
            self._belongs(block)
        elif line:
            block.gap += 1
            if block.gap > (HEADER_GAP if block.is_header else GAP):
                self._close(block)
                return
        self._extend(block)

    def _extend(self, block: _Block) -> None:
        if len(block.ends) < MAX_LINES:
            block.ends.append(self._before[-1][1])

    def _close(self, block: _Block) -> None:
        self._open = None
        self._closed_at = block.last + 1
        count = self._counts.get(block.fingerprint, 0) + 1
        if count > 1 or len(self._counts) < MAX_FINGERPRINTS:
            self._counts[block.fingerprint] = count
        block.occurrence = count
        block.is_noise = block.fingerprint in self._noise
        self._recent.append(block)
        item = (block.strength, -block.first, block)
        if len(self._best) < CANDIDATES:
            heapq.heappush(self._best, item)
        else:
            heapq.heappushpop(self._best, item)

    def finish(self) -> list[Excerpt]:
        """Returns up to MAX_EXCERPTS excerpts, the best first. Returns an empty list if the log is empty."""
        if self._open is not None:
            self._close(self._open)
        blocks = {block.first: block for _, _, block in self._best} | {block.first: block for block in self._recent}
        chosen: list[_Block] = []
        found: list[Excerpt] = []
        while blocks and len(chosen) < MAX_EXCERPTS:
            scores = {first: self._score(block) * _novelty(block, chosen) for first, block in blocks.items()}
            best = blocks[max(scores, key=lambda first: (scores[first], -first))]
            block = best
            if best.leading in FIRST_COUNTS:
                alike = [first for first, other in blocks.items() if other.leading == best.leading]
                block = blocks[min(first for first in alike if scores[first] >= ALIKE * scores[best.first])]
            del blocks[block.first]
            if all(block.fingerprint != other.fingerprint for other in chosen):
                chosen.append(block)
                found.append(self._excerpt(block, scores[best.first]))
        return found or self._end_of_log()

    def _end(self) -> int:
        return self._outcome if self._outcome >= 0 else self._line - 1

    def _score(self, block: _Block) -> float:
        end = self._end()
        if block.first > end:
            return block.strength * 0.5
        if block.leading in FIRST_COUNTS:
            return block.strength
        distance = (end - block.last) / (30 + 0.1 * self._line)
        nearness = 0.5 + 0.5 / (1 + max(0.0, distance))
        went_on = 0.6 + 0.4 / (1 + (self._progress - block.progress) / PROGRESS_SCALE)
        return block.strength * nearness * went_on

    def _excerpt(self, block: _Block, score: float) -> Excerpt:
        count = min(len(block.ends), block.last - block.first + 1)
        kinds: list[Reason] = sorted(block.reasons, key=lambda reason: -block.reasons[reason])
        reasons: list[str] = [*kinds]
        if block.occurrence > 1:
            reasons.append("repeated")
        if block.is_noise:
            reasons.append("in_passed_build")
        if block.first > self._end():
            reasons.append("after_the_end")
        return Excerpt(
            first_line=block.first + 1,
            last_line=block.first + count,
            first_byte=block.first_byte,
            last_byte=block.ends[count - 1],
            score=round(min(1.0, score / MAX_STRENGTH), 3),
            reasons=tuple(reasons),
        )

    def _end_of_log(self) -> list[Excerpt]:
        lines = list(self._before)
        while lines and lines[-1][2]:
            lines.pop()
        if not lines:
            return []
        last = self._line - (len(self._before) - len(lines))
        shown = lines[-MAX_LINES // 2 :]
        return [Excerpt(last - len(shown) + 1, last, shown[0][0], shown[-1][1], 0.05, ("end_of_log",))]


def explain(lines: Iterable[str], noise: Collection[int] = ()) -> list[Excerpt]:
    """Returns the excerpts of a log, given its lines without line feeds."""
    explainer = Explainer(noise)
    for line in lines:
        explainer.add(line)
    return explainer.finish()


class NoiseFinder:
    """Reads the lines of a passed build's log one after the other. `finish` returns the fingerprints of the lines that
    look like failures, MAX_FINGERPRINTS at most.
    """

    def __init__(self) -> None:
        self._found = set[int]()

    def add(self, text: str) -> None:
        line = clean(text)
        if line and len(self._found) < MAX_FINGERPRINTS and signal_of(line) is not None:
            self._found.add(fingerprint(line))

    def finish(self) -> frozenset[int]:
        return frozenset(self._found)


def find_noise(lines: Iterable[str]) -> frozenset[int]:
    """Returns the fingerprints of the lines of a passed build's log that look like failures."""
    finder = NoiseFinder()
    for line in lines:
        finder.add(line)
    return finder.finish()
