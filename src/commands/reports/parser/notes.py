"""Collects the warnings of one report. Their number is bounded: a fault that is seen a million times is one warning
with a count.
"""

from commands.reports.parser.case import ReportWarning

# ruff: noqa: E501  # one message, one line
WORDS = {
    "empty": "the file is empty",
    "not_a_report": "no test report was recognised: {detail}",
    "other_format": "it is a report of {detail} in a format that is not read: send it in JUnit XML instead",
    "encoding": "{detail}",
    "bad_bytes": "{count} byte sequences are invalid in {detail} and were read as Windows-1252",
    "control_characters": "{count} runs of characters that XML forbids were dropped",
    "bad_references": "{count} references to characters that XML forbids were dropped, for example {detail}",
    "entities": "{count} references to unknown entities were left as text, for example {detail}",
    "bare_ampersand": "{count} ampersands were not escaped and were taken as text",
    "bare_bracket": "{count} '<' were not escaped and were taken as text",
    "doctype": "a document type declaration was dropped, its entities are never expanded",
    "malformed_tag": "{count} malformed tags were repaired, for example {detail}",
    "duplicate_attribute": "{count} tags have an attribute twice, the last one counts, for example {detail}",
    "stray_end_tag": "{count} end tags without a start were ignored, for example {detail}",
    "unclosed_element": "{count} elements were not closed and were taken to end with their parent, for example {detail}",
    "truncated": "the file ends early, within {detail}",
    "case_dropped": "{count} unfinished cases without a failure were dropped, for example {detail}",
    "case_kept_unfinished": "{count} unfinished cases were kept because a failure was already read, for example {detail}",
    "too_deep": "{count} elements nested too deep were skipped, for example {detail}",
    "lost_results": "{count} suites, tests or failures are nested too deep to be read, for example {detail}",
    "too_many_elements": "{count} elements were skipped because a case or suite has too many, for example {detail}",
    "cut": "{count} texts were too long and were cut, for example {detail}",
    "count_mismatch": "{detail}",
    "lost_failures": "{detail}",
    "lost_tests": "{detail}",
    "not_run": "{count} tests or files did not run, as after --bail: they count as skipped, and excuse no exit code",
    "bad_number": "{count} numbers could not be read and were taken as 0 or left out, for example {detail}",
    "bad_failures": "{count} declared numbers of failures or errors could not be read, for example {detail}",
    "missing_name": "{count} cases have no name",
    "unknown_result": "{count} results are unknown and were taken as failed, for example {detail}",
    "unknown_status": "{count} cases have an unknown status and were taken as failed, for example {detail}",
    "resolution_mismatch": "{count} cases have a resolution that their elements contradict, the elements count, for example {detail}",
    "unknown_resolution": "{count} cases have an unknown resolution, for example {detail}",
    "schema_version": "{detail}",
    "definitions_missing": "{count} results have no test definition, their ids are without a class",
    "run_failed": "{detail}",
}


class _Note:
    __slots__ = ("case", "count", "detail", "line")

    def __init__(self, detail: str, line: int | None, case: int | None, count: int) -> None:
        self.detail = detail
        self.line = line
        self.case = case
        self.count = count


class Notes:
    def __init__(self, each_at_most: int) -> None:
        self._each_at_most = each_at_most
        self._notes: dict[str, list[_Note]] = {}
        self.cases = 0
        """Number of cases read so far. The reader counts them, so that a warning can say after how many cases its fault
        was seen.
        """

    def __contains__(self, kind: str) -> bool:
        return kind in self._notes

    def count_repeat(self, kind: str, count: int = 1) -> bool:
        """Adds `count` to the count of the warning of this kind. Returns False if there is no such warning yet; then
        the caller must call `add`, with the line of the fault.
        """
        known = self._notes.get(kind)
        if known is None:
            return False
        known[-1].count += count
        return True

    def add(self, kind: str, detail: str = "", *, line: int | None = None, count: int = 1) -> None:
        if not self.count_repeat(kind, count):
            self._notes[kind] = [_Note(_short(detail), line, self.cases, count)]

    def each(self, kind: str, detail: str) -> None:
        """Adds one more warning of this kind. When the kind has as many warnings as allowed, only raises the count of
        the last one.
        """
        known = self._notes.setdefault(kind, [])
        if len(known) < self._each_at_most:
            known.append(_Note(_short(detail), None, None, 1))
        else:
            known[-1].count += 1

    def warnings(self) -> tuple[ReportWarning, ...]:
        return tuple(_worded(kind, note) for kind, notes in self._notes.items() for note in notes)


def _short(detail: str) -> str:
    return detail if len(detail) <= 200 else detail[:199] + "…"


def _worded(kind: str, note: _Note) -> ReportWarning:
    message = WORDS[kind].format(count=f"{note.count:,}", detail=note.detail)
    if note.line is not None:
        message += f" ({'first ' if note.count > 1 else ''}at line {note.line:,}, after {note.case:,} cases)"
    elif kind in ("count_mismatch", "lost_failures", "lost_tests") and note.count > 1:
        message += f" (and {note.count - 1:,} more)"
    return ReportWarning(kind=kind, message=message, count=note.count, line=note.line, case=note.case)
