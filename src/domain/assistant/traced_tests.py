"""Choice of the failed tests whose beginning and earlier failures are searched: that takes too long for all of them."""

from collections.abc import Sequence

from domain.assistant.answers import Question
from domain.assistant.chat_mentions import is_asked
from domain.assistant.evidence import FailedTest
from domain.failures.failure_kinds import ASSERTION
from domain.failures.infrastructure_failures import INFRASTRUCTURE
from domain.phrases import first_line

MAX_TRACED = 3
"""Number of failed tests whose beginning and earlier failures are searched."""
MAX_LINE = 300
"""Number of characters of a message's first line that are searched for words of the infrastructure."""


def pick_traced(failures: Sequence[FailedTest], question: Question) -> list[FailedTest]:
    """Returns the first few tests: those that the question is about, then those with another signature each. Failures
    of the infrastructure come last, since where they began says little.
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
