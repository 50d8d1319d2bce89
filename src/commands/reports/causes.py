"""Groups the failures of a build that probably have one cause, and tells failures of the infrastructure from others.

Failures have one cause if their messages are equal and tell what failed (`domain.failures.message_masks`), if their
traces are similar (`domain.failures.stack_similarity`), or if their tests have failed together again and again
(`domain.failures.shared_failures`).
"""

import re
from collections.abc import Mapping, Sequence
from typing import Literal

import msgspec

from commands.reports.parser.signature import find_functions
from domain.failures import shared_failures
from domain.failures.infrastructure_failures import is_infrastructure
from domain.failures.log_templates import TemplateMiner
from domain.failures.message_masks import find_shared_message
from domain.failures.shared_failures import FailingRuns
from domain.failures.stack_similarity import Trace, group

MAX_EXAMPLES = 20
"""Largest number of results, and of builds, that are named for one cause."""

CauseKind = Literal["test", "infrastructure"]

_EXCEPTION = re.compile(
    r"^[ \t]{0,8}(?:E[ ]{3})?((?:[\w$]{1,80}\.){0,12}[\w$]{0,80}(?:Error|Exception|Failure))\b", re.MULTILINE
)


class EqualFailures(msgspec.Struct, frozen=True):
    """Failures of a build that have one signature."""

    signature: str
    results: int
    result_ids: list[int]
    """Ids of the first results, MAX_EXAMPLES at most."""
    message: str
    """Message of the first result."""
    trace: str
    case_id: int = 0
    """Id of the test case of the first result."""


class FailureCause(msgspec.Struct, frozen=True):
    """Failures of a build that probably have one cause."""

    kind: CauseKind
    results: int
    result_ids: list[int]
    signatures: list[str]
    message: str
    """Message of the first result."""
    failed_together: list[int]
    """Ids of builds in which tests of this cause failed together, the newest first, MAX_EXAMPLES at most. Empty if
    messages or traces already show that the failures have one cause.
    """


def find_cause_kind(message: str, trace: str) -> CauseKind:
    return "infrastructure" if is_infrastructure(message, trace) else "test"


def find_causes(
    failures: Sequence[EqualFailures], failing: Mapping[int, FailingRuns] | None = None
) -> list[FailureCause]:
    """Returns the causes of the failures, the cause with the most results first. `failing` has the failing runs of test
    cases, by the id of the test case, as far as they are known.
    """
    by_text = _join(group(_traces_of(failures)), _group_by_message(failures))
    runs = [(failing or {}).get(failure.case_id, FailingRuns({}, 0)) for failure in failures]
    found: dict[int, list[int]] = {}
    for number, index in zip(_join(by_text, shared_failures.group(runs)), range(len(failures)), strict=True):
        found.setdefault(number, []).append(index)
    causes: list[FailureCause] = []
    for indexes in found.values():
        alike = [failures[index] for index in indexes]
        is_by_runs = len({by_text[index] for index in indexes}) > 1
        builds = shared_failures.find_builds_together(runs[index] for index in indexes) if is_by_runs else []
        causes.append(
            FailureCause(
                kind=find_cause_kind(alike[0].message, alike[0].trace),
                results=sum(failure.results for failure in alike),
                result_ids=sorted(result_id for failure in alike for result_id in failure.result_ids)[:MAX_EXAMPLES],
                signatures=[failure.signature for failure in alike],
                message=alike[0].message,
                failed_together=builds[:MAX_EXAMPLES],
            )
        )
    return sorted(causes, key=lambda cause: (-cause.results, cause.result_ids))


def _group_by_message(failures: Sequence[EqualFailures]) -> list[int]:
    """Returns the group number of each failure. Failures with equal messages are in one group, if the messages tell
    what failed.
    """
    first: dict[str, int] = {}
    messages = [find_shared_message(failure.message) for failure in failures]
    return [first.setdefault(message, index) if message else index for index, message in enumerate(messages)]


def _join(ones: Sequence[int], others: Sequence[int]) -> list[int]:
    """Returns the group number of each item after two groupings were joined: items are in one group if they are in one
    group of either grouping, directly or through other items.
    """
    joined = list(ones)
    first: dict[int, int] = {}
    for index, other in enumerate(others):
        kept, merged = joined[first.setdefault(other, index)], joined[index]
        if kept != merged:
            joined = [kept if number == merged else number for number in joined]
    return joined


def _traces_of(failures: Sequence[EqualFailures]) -> list[Trace]:
    """Returns a trace of each failure, for the comparison of traces. If the failure's trace names no functions, the
    result has the template of the message instead: the message without the words that vary. Such failures are similar
    only if one statement of a program may have written their messages.
    """
    miner = TemplateMiner()
    functions = [tuple(find_functions(failure.trace)) for failure in failures]
    matches = [
        None if found or not failure.message.strip() else miner.add(failure.message)
        for found, failure in zip(functions, failures, strict=True)
    ]
    traces: list[Trace] = []
    for failure, found, match in zip(failures, functions, matches, strict=True):
        exception = _EXCEPTION.search(failure.message) or _EXCEPTION.search(failure.trace)
        message = failure.signature if match is None else f"{match.family} {miner.template(match)}"
        traces.append(Trace(exception[1] if exception else "", found or (message,)))
    return traces
