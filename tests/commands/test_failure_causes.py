"""Most likely cause of one failure, by the evidence that counts most."""

import pytest

from domain.assistant.answers import Question
from domain.assistant.evidence import Evidence, FailedTest, PastFailure
from domain.assistant.failure_causes import BY_ESTIMATE, BY_PAST, ProbableCause, judge
from domain.triage import Classification, Source

SIGNATURE = "0123456789abcdef"
MESSAGE = "AssertionError: assert 9 == 10"


def make_test(message: str = MESSAGE, **fields: object) -> FailedTest:
    return FailedTest(1001, 1, "t.py::test_total", message, signature=SIGNATURE, **fields)  # type: ignore[arg-type]


def make_past(number: int, classification: Classification, by: Source) -> PastFailure:
    return PastFailure(number, 9000 + number, "t.py::test_total", MESSAGE, True, SIGNATURE, classification, by)


def judge_with(test: FailedTest, *past: PastFailure) -> ProbableCause:
    return judge(Evidence(Question("diagnosis", 12, build_id=9812), past=past), test)


@pytest.mark.parametrize("by", ["statistics", "ai"])
def test_what_people_said_of_earlier_failures_counts_more_than_an_estimate(by: Source) -> None:
    estimated = make_test(classification="test_bug", classified_by=by)
    earlier = [make_past(number, "test_bug", "user") for number in range(3)]
    assert judge_with(estimated, *earlier).confidence == BY_PAST
    alone = judge_with(estimated, make_past(4, "infra", by))
    assert (alone.classification, alone.confidence) == ("test_bug", BY_ESTIMATE)


def test_estimates_are_called_what_they_are() -> None:
    assert judge_with(make_test(classification="infra", classified_by="statistics")).why == (
        "The statistics have classified this failure as infra."
    )
    assert judge_with(make_test(classification="infra", classified_by="ai")).why == (
        "The assistant has classified this failure as infra."
    )
