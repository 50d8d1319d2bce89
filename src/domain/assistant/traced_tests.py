"""Chooses the failed tests for which the assistant searches where they began to fail and how they failed before. The
search would take too long for all failed tests.
"""

from collections.abc import Sequence

from domain.assistant.answers import Question
from domain.assistant.chat_mentions import is_asked
from domain.assistant.evidence import FailedTest
from domain.failures.failure_kinds import ASSERTION
from domain.failures.infrastructure_failures import INFRASTRUCTURE
from domain.phrases import first_line

MAX_TRACED = 3
"""Largest number of failed tests for which the assistant searches the first failure and earlier failures."""
MAX_LINE = 300
"""Number of characters of a message's first line that are searched for words of the infrastructure."""


def pick_traced(failures: Sequence[FailedTest], question: Question) -> list[FailedTest]:
    """Returns at most MAX_TRACED failed tests: first those that the question is about, then one test of each signature,
    then the rest. Within each of these groups, failures of the infrastructure come last, since the build in which they
    began says little.
    """
    by_signature = {one.signature or one.name: one for one in reversed(failures)}
    chosen = {one.result_id for one in by_signature.values()}
    asked = {one.result_id for one in failures if is_asked(question, one.result_id, one.name)}
    order = sorted(
        failures,
        key=lambda one: (one.result_id not in asked, one.result_id not in chosen, _is_of_infrastructure(one)),
    )
    return order[:MAX_TRACED]


def _is_of_infrastructure(test: FailedTest) -> bool:
    line = first_line(test.message)[:MAX_LINE]
    return ASSERTION.search(line) is None and any(kind.pattern.search(line) for kind in INFRASTRUCTURE)
