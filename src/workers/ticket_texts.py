"""Writes the texts of tickets. They say which failure occurred, where, and when it stopped."""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from domain.phrases import count, first_line
from domain.tickets import MAX_CASES
from integrations.ticket_ports import Bullets, NewTicket, Paragraph, Preformatted, TicketBlock, TicketText
from projections.results_queries import Result

MAX_SUMMARY = 200
"""Largest number of characters of a summary. Jira accepts 255."""
MAX_TESTS = 10
"""Largest number of tests that a text names."""
MAX_MESSAGE = 2_000
"""Largest number of characters of a failure message. Jira accepts 32,767 for the whole text, and escaping may double a
text.
"""
MAX_TRACE = 8_000
"""Largest number of characters of a stack trace. A longer trace is cut at its beginning, since the failure is at its
end.
"""
MAX_FAIL_IDS = 20
"""Largest number of fail ids (ids that reporters give to failures) that become labels of a ticket."""
_LABEL = re.compile(r"[A-Za-z0-9_.:-]{1,100}")


@dataclass(frozen=True)
class BuildContext:
    """The build and job in which failures happened."""

    build_id: int
    job_id: int
    job: str
    branch: str
    commit_sha: str
    environment: Mapping[str, str]
    base_url: str

    @property
    def link(self) -> str:
        return f"{self.base_url}/api/v3/builds/{self.build_id}" if self.base_url else ""


@dataclass(frozen=True)
class Cause:
    """Failures of one build with one cause."""

    name: str
    """Signature of the failures; for a ticket that names several causes, a name with the id of the build or build
    group.
    """
    results: Sequence[Result]
    project_id: int
    trace: str = ""

    @property
    def case_ids(self) -> list[int]:
        return sorted({result.case_id for result in self.results})[:MAX_CASES]

    @property
    def label(self) -> str:
        """Label by which the ticket is found. It names the project, since several projects may share a Jira project."""
        return f"testhide-{self.project_id}-{self.name}"

    @property
    def fail_ids(self) -> list[str]:
        found = dict.fromkeys(result.fail_id for result in self.results)
        return [fail_id for fail_id in found if _LABEL.fullmatch(fail_id)][:MAX_FAIL_IDS]


def describe_failure(cause: Cause, where: BuildContext) -> NewTicket:
    """Returns the ticket for a new cause."""
    first, number = cause.results[0], len(cause.results)
    more = f" and {count(number - 1, 'more test')}" if number > 1 else ""
    text: list[TicketBlock] = [
        Paragraph(f"{count(number, 'test')} failed in build {where.build_id} of {where.job}", where.link),
        Bullets(_facts(where)),
        *_tests(cause.results),
        Preformatted(_shorten(first.message, MAX_MESSAGE)),
    ]
    if cause.trace:
        text.append(Preformatted(cause.trace[-MAX_TRACE:]))
    if cause.fail_ids:
        text.append(Paragraph(f"fail_id: {', '.join(cause.fail_ids)}"))
    text.append(Paragraph(f"Testhide writes here when the failure comes back, and when it stops ({cause.label})."))
    headline = f"{first_line(first.message) or 'Test failed'}: {first.node_id}"
    return NewTicket(_shorten(headline, MAX_SUMMARY - len(more)) + more, text, [cause.label, *cause.fail_ids])


def describe_rest(name: str, causes: Sequence[Cause], where: BuildContext) -> tuple[Cause, NewTicket]:
    """Returns one cause called `name` that joins `causes`, and one ticket for all of them."""
    rest = Cause(name, [result for cause in causes for result in cause.results], causes[0].project_id)
    first = [f"{_shorten(first_line(c.results[0].message), 150)}: {c.results[0].node_id}" for c in causes[:MAX_TESTS]]
    more = len(causes) - len(first)
    text: list[TicketBlock] = [
        Paragraph(
            f"{count(len(causes), 'more cause')} of failures in build {where.build_id} of {where.job}", where.link
        ),
        Bullets(_facts(where)),
        Bullets([_shorten(line, 500) for line in first] + ([f"and {more:,} more"] if more else [])),
    ]
    summary = f"{count(len(causes), 'more cause')} of failures in {_shorten(where.job, 100)}, build {where.build_id}"
    return rest, NewTicket(summary, text, [rest.label])


def describe_recurrence(cause: Cause, where: BuildContext) -> TicketText:
    number = len(cause.results)
    return [
        Paragraph(f"{count(number, 'test')} failed again in build {where.build_id} of {where.job}", where.link),
        Bullets(_facts(where)),
        *_tests(cause.results),
    ]


def describe_stop(where: BuildContext, tests: int) -> TicketText:
    whom = "the test" if tests == 1 else f"all {tests:,} tests"
    return [Paragraph(f"Build {where.build_id} of {where.job} passed {whom} of this failure", where.link)]


def _facts(where: BuildContext) -> list[str]:
    facts = {"branch": where.branch, "commit": where.commit_sha, **where.environment}
    return [f"{name}: {_shorten(value, 200)}" for name, value in facts.items() if value] or ["no branch"]


def _tests(results: Sequence[Result]) -> list[TicketBlock]:
    names = list(dict.fromkeys(result.node_id for result in results))
    listed = [_shorten(name, 300) for name in names[:MAX_TESTS]]
    more = len(names) - len(listed)
    return [Bullets(listed + ([f"and {more:,} more"] if more else []))]


def _shorten(text: str, length: int) -> str:
    return text if len(text) <= length else f"{text[: length - 1]}…"
