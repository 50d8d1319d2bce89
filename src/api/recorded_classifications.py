"""Shows why a failure was classified when its report was recorded, and which part of the failure's text decided."""

from typing import Literal

import msgspec

from commands.reports.patterns import searchable
from projections import classification_rules, triage
from projections.results import ResultTextRow
from store.postgres.queries import Source

MAX_MATCHED_TEXT = 500
"""Largest number of characters that are shown of the text that a pattern matched."""


class RecordedClassification(msgspec.Struct):
    """Why a failure was classified when its report was recorded, and the part of the failure that a pattern matched."""

    source: Literal["known_issue", "rule", "statistics"]
    """`known_issue`: a known issue; `rule`: a classification rule of the project; `statistics`: people have classified
    earlier failures with the same signature in this way.
    """
    confidence: float
    """Probability that a person would classify the failure in the same way, as the statistics estimate it; 1 for known
    issues and rules.
    """
    rule: int | None
    """Number of the classification rule in its list, from 1; null for other sources."""
    rules_version: int | None
    """Version of the project's classification rules; null for other sources."""
    title: str | None
    """Name of the classification rule; null for other sources."""
    text: str
    """Part of the message and trace that a pattern matched, up to 500 characters; empty if no pattern matched."""
    start: int
    """Offset of the first byte of `text` in the UTF-8 bytes of the message, a line break and the trace."""
    end: int
    """Offset of the byte after the part that the pattern matched. `text` may show only the beginning of this part."""


async def find_recorded_classification(
    source: Source, project_id: int, result_id: int, text: ResultTextRow | None
) -> RecordedClassification | None:
    match = await triage.find_recorded_match(source, result_id)
    if match is None:
        return None
    matched = b"" if text is None else searchable(text.message, text.trace)[match.start : match.end]
    title = None
    if match.rule:
        rules = await classification_rules.find_version(source, project_id, match.rules_version)
        title = None if rules is None else rules.parsed[match.rule - 1].title
    return RecordedClassification(
        source="rule" if match.rule else "known_issue" if match.known_issue_id else "statistics",
        confidence=match.confidence / 100,
        rule=match.rule or None,
        rules_version=match.rules_version or None,
        title=title,
        text=matched.decode(errors="replace")[:MAX_MATCHED_TEXT],
        start=match.start,
        end=match.end,
    )
