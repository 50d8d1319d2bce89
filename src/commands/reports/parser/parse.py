"""Entry point of the parser: yields cases, suites and a summary while it reads the bytes of a report."""

from collections.abc import Iterable, Iterator

from commands.reports.parser.case import Case, Suite, Summary
from commands.reports.parser.decoding import decode_windows
from commands.reports.parser.limits import Limits
from commands.reports.parser.notes import Notes
from commands.reports.parser.reader import ReportReader
from commands.reports.parser.scanner import Scanner
from commands.reports.parser.tree import Balancer


def parse_report(chunks: Iterable[bytes], *, limits: Limits = Limits()) -> Iterator[Case | Suite | Summary]:  # noqa: B008  # frozen
    """Reads a test report in any known format (Testhide v1, JUnit, NUnit 3, xUnit 2, TRX), even a broken one.

    `chunks` are the bytes of one file, split anywhere; an open binary file will do. Yields every case as soon as its
    element ends, but the cases of TRX only after the definitions at the end of the file. Yields every suite after its
    cases, and as the last item always one `Summary` with all warnings. No content of the file raises an error, but
    errors of `chunks` pass through. Memory does not grow with the file, except by about 20 MB for each 100,000 cases of
    TRX.
    """
    notes = Notes(limits.warnings_of_a_kind)
    reader = ReportReader(limits, notes)
    lines = [1]
    balancer = Balancer(reader, notes, limits, lambda: lines[0])
    scanner = Scanner(balancer, notes, limits)
    anything = False
    for window in decode_windows(chunks, notes):
        anything = anything or not window.isspace()
        scanner.feed(window)
        lines[0] = scanner.line
        yield from reader.drain()
    if not anything:
        notes.add("empty")
    scanner.close()
    balancer.close()
    reader.finish()
    yield from reader.drain()
    yield reader.summary()
