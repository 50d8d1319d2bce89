"""Assessment of a test by its runs, and detection of failures that have become more frequent."""

import math
import random

import hypothesis
import pytest
from hypothesis import strategies as st

from domain.test_health import (
    ANY_RATE_SHARE,
    BREAK_RATE,
    BROKEN_BUILD,
    FAILED,
    FIX_RATE,
    FLAKY_SHARE,
    HIGHEST_RATE,
    HORIZON,
    MAX_COUNTED,
    RATE_FAILURES,
    RATE_PASSES,
    RETRIED,
    RUNS_PER_FALSE_ALARM,
    SAME_COMMIT,
    STABLE_RATE,
    WARM_UP,
    DriftState,
    assess,
    observe,
    observe_passes,
)

FLAGS = {"P": 0, "F": FAILED, "R": RETRIED, "p": SAME_COMMIT, "f": FAILED | SAME_COMMIT, "r": RETRIED | SAME_COMMIT}
"""Flags of a run by a letter: a small letter is a run of the same commit as the run before."""
RUNS = st.lists(st.sampled_from(list(FLAGS.values())), max_size=40).map(bytes)
LONG_RUNS = st.lists(st.tuples(st.sampled_from(list(FLAGS.values())), st.integers(1, 200)), max_size=4).map(
    lambda parts: b"".join(bytes([flags]) * count for flags, count in parts)
)


def read(letters: str) -> bytes:
    return bytes(FLAGS[letter] for letter in letters)


def test_a_test_that_never_failed_is_healthy() -> None:
    assessment = assess(read("P" * 200))
    assert not assessment.is_flaky
    assert assessment.flaky_probability < 0.1
    assert assessment.flake_rate < 0.001
    assert assessment.health_score >= 99
    assert (assessment.trend, assessment.risk, assessment.recommended_action) == ("stable", "low", "none")


def test_a_test_without_runs_is_as_likely_flaky_as_any() -> None:
    assessment = assess(b"")
    assert assessment.flaky_probability == pytest.approx(FLAKY_SHARE)
    mean = (1 - ANY_RATE_SHARE) * RATE_FAILURES / (RATE_FAILURES + RATE_PASSES) + ANY_RATE_SHARE * HIGHEST_RATE / 2
    assert assessment.flake_rate == pytest.approx(FLAKY_SHARE * mean, rel=0.05)
    assert assessment.transitions == 0


def test_two_episodes_of_failures_are_flakiness() -> None:
    assessment = assess(read("P" * 20 + "F" + "P" * 9 + "F" + "P" * 19))
    assert assessment.flaky_probability > 0.99
    assert assessment.recommended_action == "fix"
    assert assessment.flake_rate_low < 2 / 50 < assessment.flake_rate_high


@pytest.mark.parametrize(("every", "runs"), [(5, 26), (4, 20), (4, 200), (2, 60), (10, 50), (30, 200)])
def test_the_interval_contains_the_share_of_failures(every: int, runs: int) -> None:
    history = bytes(FAILED if number % every == 1 else 0 for number in range(runs))
    assessment = assess(history)
    share = sum(history) / runs
    assert assessment.flake_rate_low < share < assessment.flake_rate_high
    assert assessment.flake_rate == pytest.approx(share, rel=0.3)


def test_failures_in_a_row_are_broken_code() -> None:
    mended = assess(read("P" * 25 + "F" * 8 + "P" * 17))
    assert not mended.is_flaky
    assert mended.broken_probability == 0
    assert mended.recommended_action == "none"
    broken = assess(read("P" * 42 + "F" * 8))
    assert not broken.is_flaky
    assert broken.broken_probability > 0.99
    assert (broken.health_score, broken.recommended_action) == (0, "investigate")


def test_two_spells_of_broken_code_are_not_flakiness() -> None:
    assert not assess(read("P" * 100 + "F" * 10 + "P" * 50 + "F" * 10 + "P" * 30)).is_flaky


def test_the_flake_rate_leaves_out_broken_code() -> None:
    flaky = "PPPPPPPPFP" * 10
    assert assess(read(flaky + "F" * 30)).flake_rate == pytest.approx(assess(read(flaky)).flake_rate, abs=0.01)


@pytest.mark.parametrize("letters", ["PPRPP", "PPFpP", "PfPp" + "P" * 90, "PFfpP"])
def test_a_failure_and_a_pass_of_the_same_commit_are_flakiness(letters: str) -> None:
    assert assess(read(letters)).flaky_probability > 0.99


@pytest.mark.parametrize("runs", [20, 50, 200, 1_000])
def test_a_test_that_always_fails_is_not_flaky(runs: int) -> None:
    assert not assess(read("F" * runs)).is_flaky
    assert not assess(read("P" + "F" * runs)).is_flaky


def test_broken_builds_say_nothing() -> None:
    runs = read("PPFPPPPFPPPPRP")
    with_broken = bytearray(runs)
    for index in (0, 3, 9, len(runs) + 3):
        with_broken.insert(index, BROKEN_BUILD | FAILED)
    assert assess(bytes(with_broken)) == assess(runs)


def test_the_same_commit_reaches_across_broken_builds() -> None:
    broken = BROKEN_BUILD | FAILED
    assert assess(bytes([0, FAILED, broken | SAME_COMMIT, SAME_COMMIT])) == assess(read("PFp"))
    assert assess(bytes([0, FAILED, broken, SAME_COMMIT])) == assess(read("PFP"))


def test_trends() -> None:
    steady, often = "P" * 49 + "F", "PPPFP" * 20
    assert assess(read(steady * 2 + often)).trend == "worsening"
    assert assess(read(often + steady * 2)).trend == "improving"
    assert assess(read(often * 2)).trend == "stable"
    assert assess(read("P" * 80 + "F" + "P" * 19)).trend == "stable"


def test_recent_transitions_count_more() -> None:
    early, late = (assess(read(letters)).transitions for letters in ("FPPPPPPPPPPPPPPP", "PPPPPPPPPPPPPPPF"))
    assert 0 < early < late < 1
    assert assess(read("PFPFPF")).transitions == pytest.approx(1)


def test_tests_that_fail_often_are_quarantined() -> None:
    assessment = assess(read("PPPFP" * 10))
    assert (assessment.risk, assessment.recommended_action) == ("high", "quarantine")


def test_a_test_is_not_quarantined_for_its_first_failure() -> None:
    assert assess(read("P" * 9 + "F")).recommended_action == "fix"


STEPS = 400
RATES = [1 / (1 + math.exp(11 - 16 * step / STEPS)) for step in range(STEPS)]
"""Rates of flaky tests."""


def weigh(rates: list[float]) -> list[float]:
    """Returns the prior probabilities of rates whose log odds are equally far from each other."""
    known = [rate**RATE_FAILURES * (1 - rate) ** RATE_PASSES for rate in rates]
    alike = [rate * (1 - rate) * (rate <= HIGHEST_RATE) for rate in rates]
    return [
        (1 - ANY_RATE_SHARE) * one / sum(known) + ANY_RATE_SHARE * other / sum(alike)
        for one, other in zip(known, alike, strict=True)
    ]


PRIOR = weigh(RATES)


def compute_likelihood(runs: bytes, rate: float) -> float:
    """Returns the likelihood of runs by definition: over each state of the code, run by run."""
    broken = BREAK_RATE / (BREAK_RATE + FIX_RATE)
    good = 1 - broken
    for index, run in enumerate(runs):
        if index and not run & SAME_COMMIT:
            good, broken = good * (1 - BREAK_RATE) + broken * FIX_RATE, good * BREAK_RATE + broken * (1 - FIX_RATE)
        if run & FAILED:
            good *= rate
        else:
            good *= 1 - rate if not run & RETRIED else rate * (1 - rate)
            broken = 0
    return good + broken


def compute_probabilities(runs: bytes) -> tuple[float, float]:
    """Returns the probability that a test is flaky and has these runs, and that it is not flaky and has them."""
    likelihoods = [compute_likelihood(runs, rate) for rate in RATES]
    flaky = sum(weight * each for weight, each in zip(PRIOR, likelihoods, strict=True)) / sum(PRIOR)
    return FLAKY_SHARE * flaky, (1 - FLAKY_SHARE) * compute_likelihood(runs, STABLE_RATE)


@hypothesis.given(RUNS)
@hypothesis.example(read("FFFFFF"))
def test_probabilities_are_those_of_the_model(runs: bytes) -> None:
    """The tolerance is for the integral over rates, which the rule computes in fewer steps than this test. They differ
    most, by 3.2 %, for tests that have failed 5 or 6 times and never passed.
    """
    steps = 400
    odds = [math.exp(-11 + 16 * step / steps) for step in range(steps)]
    rates = [each / (1 + each) for each in odds]
    prior = weigh(rates)
    flaky = sum(weight * compute_likelihood(runs, rate) for weight, rate in zip(prior, rates, strict=True)) / sum(prior)
    stable = (1 - FLAKY_SHARE) * compute_likelihood(runs, STABLE_RATE)
    expected = FLAKY_SHARE * flaky / (FLAKY_SHARE * flaky + stable)
    assert assess(runs).flaky_probability == pytest.approx(expected, rel=0.04, abs=1e-3)


@hypothesis.given(RUNS)
@hypothesis.example(read("P" * 9 + "F"))
def test_the_health_score_is_the_probability_that_the_next_runs_pass(runs: bytes) -> None:
    # The commit stays the same: broken code stays broken.
    passed = sum(compute_probabilities(runs + bytes([SAME_COMMIT]) * HORIZON))
    expected = passed / sum(compute_probabilities(runs))
    assert assess(runs).health_score == pytest.approx(100 * expected, abs=1.5)


@hypothesis.given(RUNS | LONG_RUNS)
@hypothesis.example(read("P" + "f" * 200 + "p"))
@hypothesis.example(read("P" + "F" * 300 + "p"))
def test_assessments_are_in_range(runs: bytes) -> None:
    assessment = assess(runs)
    assert 0 <= assessment.flake_rate_low <= assessment.flake_rate_high <= 1
    assert assessment.flake_rate <= 1
    assert -1e-9 <= assessment.flaky_probability <= 1 + 1e-9
    assert -1e-9 <= assessment.broken_probability <= 1 + 1e-9
    assert 0 <= assessment.transitions <= 1
    assert 0 <= assessment.health_score <= 100


def follow(runs: bytes, state: DriftState | None = None) -> DriftState:
    state = state or DriftState()
    for run in runs:
        state = observe(state, run)
    return state


@hypothesis.given(st.lists(st.tuples(RUNS, st.integers(0, 200)), max_size=5))
def test_passes_in_a_row_are_observed_at_once(parts: list[tuple[bytes, int]]) -> None:
    one_by_one = at_once = observe_passes(DriftState(), WARM_UP)
    for runs, passes in parts:
        one_by_one = follow(bytes(passes), follow(runs, one_by_one))
        at_once = observe_passes(follow(runs, at_once), passes)
    assert one_by_one == at_once


def test_more_frequent_failures_are_noticed() -> None:
    before = follow(read(("P" * 49 + "F") * 10))
    assert not before.is_emerging
    assert before.evidence > 0
    emerging = follow(read("PPPPF" * 6), before)
    assert emerging.is_emerging


def test_an_emergence_ends_with_passes_and_is_no_baseline() -> None:
    before = follow(read(("P" * 49 + "F") * 10 + "P" * 60))
    emerging = follow(read("FPP" * 10), before)
    assert emerging.is_emerging
    over = observe_passes(emerging, 100)
    assert not over.is_emerging
    assert over.failures == before.failures
    assert over.runs == before.runs + 102


def test_the_first_failures_are_not_an_emergence() -> None:
    assert not follow(read("PPPPF" * (WARM_UP // 5))).is_emerging


def test_broken_code_is_not_an_emergence() -> None:
    state = follow(read("P" * 200 + "F" * 20 + "P" * 100))
    assert not state.is_emerging
    assert (state.failures, state.streak) == (MAX_COUNTED, 0)


def test_three_failures_close_together_are_noticed_of_a_test_that_never_failed() -> None:
    state = follow(read("P" * 1_000 + "FPPPPPPPPPPFPPPPPPPPPP"))
    assert not state.is_emerging
    assert observe(state, FAILED).is_emerging
    assert not observe(observe_passes(state, 20), FAILED).is_emerging


def test_a_broken_build_is_not_observed() -> None:
    state = follow(read("P" * 200 + "F"))
    assert observe(state, FAILED | BROKEN_BUILD) is state


def test_a_retried_run_is_a_failure_that_ends() -> None:
    state = follow(read("P" * 200 + "FR"))
    assert (state.recent_failures, state.streak) == (2, 0)


@pytest.mark.parametrize("rate", [0.002, 0.02, 0.1])
def test_false_alarms_are_as_rare_as_configured(rate: float) -> None:
    draw = random.Random(1).random
    state, alarms = DriftState(), 0
    runs = 100_000
    for _ in range(runs):
        after = observe(state, FAILED if draw() < rate else 0)
        alarms += after.is_emerging and not state.is_emerging
        state = after
    assert alarms <= runs / RUNS_PER_FALSE_ALARM
