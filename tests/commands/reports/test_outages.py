"""Results of a report that failed since the machine, the network or another system failed."""

from commands.reports.flips import find_flips
from commands.reports.outages import find_outages
from commands.reports.reading import Match, ReportRead, read_chunks
from domain.flakiness import OtherResult
from domain.results import PASSED

REFUSED = "ConnectionRefusedError: [Errno 111] Connection refused"
FULL = "OSError: [Errno 28] No space left on device"


def report(*attempts: tuple[str, str]) -> ReportRead:
    """Each attempt is the name of a test and the message of its failure; without a message it passed."""
    cases = (
        f'<testcase name="{name}">{f"<failure message={message!r}/>" if message else ""}</testcase>'
        for name, message in attempts
    )
    return read_chunks([f'<testsuite name="s">{"".join(cases)}</testsuite>'.encode()])


def test_the_message_of_a_failure_shows_an_outage() -> None:
    read = report(("a", FULL), ("b", ""), ("c", "AssertionError: assert 3 == 4"), ("d", REFUSED))
    assert find_outages(read) == bytes([1, 0, 0, 1])
    assert find_outages(report(("a", ""), ("b", "ValueError: 3"))) == b""


def test_an_assertion_that_compares_such_words_is_no_outage() -> None:
    assert find_outages(report(("a", f"AssertionError: assert {REFUSED} == ok"))) == b""


def test_what_rules_say_counts_more_than_the_words() -> None:
    read = report(("a", REFUSED), ("b", "licence server busy"))
    read.matches = [Match(0, 0, "flaky", rule=1), Match(1, 0, "infra", rule=2)]
    assert find_outages(read) == bytes([0, 1])


def test_a_retry_is_an_outage_if_all_attempts_before_it_are() -> None:
    read = report(("a", REFUSED), ("a", ""), ("b", REFUSED), ("b", "ValueError: 3"), ("b", ""))
    assert find_outages(read) == bytes([0, 1, 0, 0, 0])


def test_an_outage_is_no_flip() -> None:
    read = report(("a", REFUSED), ("b", "ValueError: 3"))
    read.outages = find_outages(read)
    others = [OtherResult(1, "s", case_id, PASSED) for case_id in (7, 8)]
    assert find_flips(read, [7, 8], others) == bytes([0, 2])
