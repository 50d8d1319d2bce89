"""Histories of tests that the machine, the network or another system made fail."""

from domain.case_activity import sum_up
from domain.outages import FREQUENT, WITHIN
from domain.run_histories import NotableRun, RunHistory, count_failing, follow
from domain.run_lines import Lines
from domain.test_health import FAILED, OUTAGE, RETRIED, assess

P, F, DOWN = 0, FAILED, FAILED | OUTAGE


def arrange(*runs: int) -> RunHistory:
    notable = [NotableRun(number, number, 0, flags) for number, flags in enumerate(runs, 1) if flags]
    return RunHistory(Lines({}, set(), (), now=0).arrange(notable, len(runs)), len(runs))


def test_an_outage_says_nothing_about_a_test() -> None:
    history = arrange(*[P] * 10, DOWN, *[P] * 10, DOWN, P)
    found = assess(history.to_bytes())
    assert found == assess(bytes(21))
    assert (found.recommended_action, found.is_flaky) == ("none", False)
    assert count_failing(history) == (0, 21)
    assert history.find_failing() is None
    assert follow(history).state.failures == 0


def test_an_outage_is_no_flip_but_the_test_fails_now() -> None:
    activity = sum_up(1, arrange(P, RETRIED | OUTAGE, P, P, F, DOWN), 6, None)
    assert (activity.failed_runs, activity.outages, activity.retried_runs) == (2, 2, 0)
    assert (activity.flips, activity.failing_streak, activity.failing_since) == (1, 2, 5)


def test_failures_in_a_row_count_whatever_they_say() -> None:
    history = arrange(*[P] * 20, *[DOWN] * FREQUENT)
    assert history.to_bytes() == bytes([P] * 20 + [F] * FREQUENT)
    assert assess(history.to_bytes()).recommended_action == "investigate"
    failing = history.find_failing()
    assert failing is not None
    assert failing.build_id == 20 + FREQUENT


def test_frequent_outages_count() -> None:
    rare = [DOWN, *[P] * (WITHIN // 2)]
    assert arrange(*[P] * 9, *rare * 5).to_bytes().count(DOWN) == 5
    often = arrange(*[P] * 9, *[DOWN, P, P] * 5)
    assert not any(run.flags & OUTAGE for run in often.notable)
    assert assess(often.to_bytes()).is_flaky


def test_only_the_frequent_ones_count() -> None:
    history = arrange(DOWN, *[P] * WITHIN, *[DOWN] * FREQUENT, *[P] * WITHIN, DOWN, P)
    assert [run.flags for run in history.notable] == [DOWN, *[F] * FREQUENT, DOWN]
