"""Choice of the failed tests whose beginning is searched."""

from domain.assistant.answers import Question
from domain.assistant.evidence import FailedTest
from domain.assistant.traced_tests import pick_traced

DIAGNOSIS = Question("diagnosis", 12, build_id=9812)


def make_test(number: int, message: str, signature: str) -> FailedTest:
    return FailedTest(number, number, f"t::test_{number}", message, signature=signature)


def test_failures_of_the_infrastructure_are_traced_last() -> None:
    refused = [make_test(number, "OSError: Connection refused", f"r{number}") for number in range(4)]
    wrong = [make_test(number, "AssertionError: 1 != 'Connection refused'", f"w{number}") for number in range(4, 6)]
    assert pick_traced([*refused, *wrong], DIAGNOSIS) == [*wrong, refused[0]]


def test_what_is_asked_comes_first_and_equal_failures_come_last() -> None:
    refused = make_test(1, "OSError: Connection refused", "r")
    wrong = [make_test(number, "AssertionError: 1 != 2", "w") for number in range(2, 4)]
    other = make_test(4, "AssertionError: 3 != 4", "o")
    assert pick_traced([*wrong, refused, other], DIAGNOSIS) == [wrong[0], other, refused]
    asked = Question("chat", 12, build_id=9812, result_id=1)
    assert pick_traced([*wrong, other, refused], asked) == [refused, wrong[0], other]
