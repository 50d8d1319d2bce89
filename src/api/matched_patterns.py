"""Shows by which pattern a failure was classified, and which part of the failure it matched."""

import msgspec

from commands.reports.patterns import searchable
from projections import classification_rules, triage
from projections.results import ResultTextRow
from store.postgres.queries import Source

MAX_MATCHED_TEXT = 500
"""Largest number of characters that are shown of the part that a pattern matched."""


class MatchedPattern(msgspec.Struct):
    """The pattern that matched a failure when its report was recorded, and the part of the failure that it matched."""

    rule: int | None
    """Number of the classification rule in its list, from 1; null for the pattern of a known issue."""
    rules_version: int | None
    """Version of the project's classification rules; null for the pattern of a known issue."""
    title: str | None
    """Name of the classification rule; null for the pattern of a known issue."""
    text: str
    """Part of the message and trace that matched, up to 500 characters."""
    start: int
    """First byte of this part in the message, a line break and the trace, in UTF-8."""
    end: int


async def find_matched_pattern(
    source: Source, project_id: int, result_id: int, text: ResultTextRow | None
) -> MatchedPattern | None:
    match = await triage.find_pattern_match(source, result_id)
    if match is None:
        return None
    matched = b"" if text is None else searchable(text.message, text.trace)[match.start : match.end]
    shown = matched.decode(errors="replace")[:MAX_MATCHED_TEXT]
    if not match.rule:
        return MatchedPattern(None, None, None, shown, match.start, match.end)
    rules = await classification_rules.find_version(source, project_id, match.rules_version)
    title = None if rules is None else rules.parsed[match.rule - 1].title
    return MatchedPattern(match.rule, match.rules_version, title, shown, match.start, match.end)
