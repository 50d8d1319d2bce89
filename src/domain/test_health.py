"""Health of a test, computed from its runs: how likely it is flaky, how often it fails on good code, and whether it has
lately begun to fail more often.

A run is the final result of the test in one build. A history of runs is bytes, one byte a run, oldest first: a sum of
the flags below, 0 for a run that passed at the first attempt.

`assess` weighs two explanations of the failures of a history against each other. Either the code was broken for some
builds in a row, in which the test always failed; or the test fails now and then on good code, at an unknown rate. Both
may be true of one history. `observe` follows a test run by run, and notices when failures become more frequent than
before. docs/intelligence.md gives the formulas, their sources, and measurements of how well they work.
"""

import math
import re
from collections.abc import Sequence
from functools import lru_cache
from typing import Literal

import msgspec

FAILED = 1
RETRIED = 2
"""The run passed, but only on a retry."""
SAME_COMMIT = 4
"""The run tests the same commit as the run before."""
OUTAGE = 8
"""The run failed, or passed only on a retry, because the machine, the network or another system failed. It is left out.
If such runs of the test are frequent, `domain.outages` removes this flag from them, so that they count.
"""
BROKEN_BUILD = 16
"""So many tests of the build failed that the run says nothing about this test. It is left out."""
OTHER_BRANCH = 32
"""The run failed on a branch other than the default branch, whose code may be broken. The run is left out."""
LEFT_OUT = OUTAGE | BROKEN_BUILD | OTHER_BRANCH

FLAKY_SHARE = 0.16
"""Share of tests that are flaky to some degree, at Google (Micco 2016)."""
RATE_FAILURES, RATE_PASSES = 0.6, 40.0
"""Parameters of the beta distribution of the rates at which flaky tests fail on good code: the maximum-likelihood
estimate for the 289 flaky tests of FlakeFlagger (Alshammari et al., ICSE 2021) with about 10,000 runs each, rounded.
The mean rate is 1.5 %.
"""
ANY_RATE_SHARE = 0.1
"""Share of flaky tests whose rate is assumed to be equally likely anywhere from 0 to HIGHEST_RATE. Without this share,
the beta distribution outweighs the runs: for a test that fails in a quarter of its runs, the interval of the flake
rate is too low in 57 of 100 histories of 50 runs.
"""
HIGHEST_RATE = 0.7
"""Highest rate in the distribution of ANY_RATE_SHARE. A test that fails more often is more likely broken than flaky."""
_FLAKY_TRANSITIONS = 0.84
"""Share of the changes from pass to failure that are due to flaky tests, at Google (Micco 2016)."""
BREAK_RATE = FLAKY_SHARE * RATE_FAILURES / (RATE_FAILURES + RATE_PASSES) * (1 - _FLAKY_TRANSITIONS) / _FLAKY_TRANSITIONS
"""Probability that a commit breaks the code that a test checks: 1 in 2,200. At this rate, broken code causes the
changes from pass to failure that flaky tests do not cause.
"""
FIX_RATE = 0.1
"""Probability that a commit mends broken code. So broken code makes its tests fail for 10 builds on average."""
STABLE_RATE = 1e-6
"""Rate at which a test that is not flaky fails on good code, for reasons outside of the test."""

FLAKY_FROM = 0.8
"""Least probability of flakiness with which a test counts as flaky. To call a broken test flaky is taken to be four
times as bad as to miss a flaky test, since nobody looks into the failure of a flaky test.
"""
WATCH_FROM = 0.5
BROKEN_FROM = 0.5
TREND_FROM = 0.95
HORIZON = 20
"""Number of future runs that the health score is about."""
MEDIUM_RISK_BELOW, HIGH_RISK_BELOW = 80, 50
RECENCY = 0.95
"""Factor by which each later run reduces the weight of a change of outcome: to half after 14 runs."""

Trend = Literal["improving", "stable", "worsening"]
Risk = Literal["low", "medium", "high"]
Action = Literal["none", "watch", "fix", "quarantine", "investigate"]


class Assessment(msgspec.Struct, frozen=True):
    flaky_probability: float
    flake_rate: float
    """Posterior mean of the rate at which the test fails on good code, which is 0 for a test that is not flaky."""
    flake_rate_low: float
    """Lower end of the interval that contains the flake rate with a probability of 95 %."""
    flake_rate_high: float
    """Upper end of the interval that contains the flake rate with a probability of 95 %."""
    broken_probability: float
    """Probability that the last run failed because the code is broken."""
    transitions: float
    """Share of the runs whose outcome differs from that of the run before, or that passed only on a retry. Later runs
    weigh more.
    """
    health_score: int
    """Probability in percent that the next HORIZON runs pass if nothing changes."""
    trend: Trend
    """Whether the flake rate of the later half of the runs differs from that of the earlier half."""
    risk: Risk
    recommended_action: Action

    @property
    def is_flaky(self) -> bool:
        return self.flaky_probability >= FLAKY_FROM


_LOWEST, _HIGHEST, _STEPS = math.log(2e-5), math.log(99.0), 64
_LOG_ODDS = [_LOWEST + (_HIGHEST - _LOWEST) * step / (_STEPS - 1) for step in range(_STEPS)]
_RATES = (STABLE_RATE, *(1 / (1 + math.exp(-value)) for value in _LOG_ODDS))
"""Failure rates for which the posterior probability is computed: the rate of tests that are not flaky, then rates of
flaky tests, at equal distances of their log odds.
"""
_LOG_FAILURE = tuple(math.log(rate) for rate in _RATES)
_LOG_PASS = tuple(math.log1p(-rate) for rate in _RATES)
_NOT_BROKEN = (0.0,) * len(_RATES)
_ALL_PASS = tuple((1 - rate) ** HORIZON for rate in _RATES)


def _weigh_rates() -> tuple[float, ...]:
    """Returns the logarithms of the prior probabilities of _RATES."""
    known = [rate**RATE_FAILURES * (1 - rate) ** RATE_PASSES for rate in _RATES[1:]]
    alike = [rate * (1 - rate) if rate <= HIGHEST_RATE else 0 for rate in _RATES[1:]]
    shares = FLAKY_SHARE * (1 - ANY_RATE_SHARE) / sum(known), FLAKY_SHARE * ANY_RATE_SHARE / sum(alike)
    flaky = (shares[0] * one + shares[1] * other for one, other in zip(known, alike, strict=True))
    return (math.log(1 - FLAKY_SHARE), *map(math.log, flaky))


_SMALL = 1e-100
"""Probability below which all probabilities are scaled up, so that they do not become 0 in long histories."""
_PRIOR = _weigh_rates()
_UNKNOWN = tuple(map(math.exp, _PRIOR))
_FAILURES = re.compile(rb"[\x01\x03\x05\x07]+[\x00\x02\x04\x06]?")
"""Matches failures in a row, with the run that passed after them."""


def assess(runs: bytes) -> Assessment:
    runs = _leave_out(runs)
    weights, broken_shares = _compute_posterior(runs)
    broken = min(1.0, sum(weight * share for weight, share in zip(weights, broken_shares, strict=True)))
    rate = sum(weight * rate for weight, rate in zip(weights, _RATES, strict=True)) - weights[0] * STABLE_RATE
    all_pass = sum(
        weight * (1 - share) * value for weight, share, value in zip(weights, broken_shares, _ALL_PASS, strict=True)
    )
    flaky = min(1.0, sum(weights[1:]))  # rounding can lift the sum above 1
    score = round(100 * all_pass)
    risk: Risk = "high" if score < HIGH_RISK_BELOW else "medium" if score < MEDIUM_RISK_BELOW else "low"
    return Assessment(
        flaky_probability=flaky,
        flake_rate=rate,
        flake_rate_low=_find_quantile(weights, 0.025),
        flake_rate_high=_find_quantile(weights, 0.975),
        broken_probability=broken,
        transitions=_measure_transitions(runs),
        health_score=score,
        trend=_find_trend(runs),
        risk=risk,
        recommended_action=_recommend(flaky, broken, weights),
    )


def _recommend(flaky: float, broken: float, weights: Sequence[float]) -> Action:
    if broken >= BROKEN_FROM:
        return "investigate"
    if flaky >= FLAKY_FROM:
        all_pass = 100 * sum(weight * value for weight, value in zip(weights, _ALL_PASS, strict=True))
        return "quarantine" if all_pass < HIGH_RISK_BELOW else "fix" if all_pass < MEDIUM_RISK_BELOW else "watch"
    return "watch" if flaky >= WATCH_FROM else "none"


def _leave_out(runs: bytes) -> bytes:
    if not runs or max(runs) < OUTAGE:
        return runs
    kept = bytearray()
    same = SAME_COMMIT
    for run in runs:
        same &= run
        if not run & LEFT_OUT:
            kept.append(run & (FAILED | RETRIED) | same)
            same = SAME_COMMIT
    return bytes(kept)


def _compute_posterior(runs: bytes) -> tuple[Sequence[float], Sequence[float]]:
    """Returns the posterior probabilities of _RATES, and for each of these rates the probability that the code is
    broken at the last run.
    """
    if not runs:
        return _UNKNOWN, _NOT_BROKEN
    passes = len(runs)
    blocks: dict[tuple[bytes, bool], int] = {}
    for match in _FAILURES.finditer(runs):
        key = match[0], match.start() == 0
        blocks[key] = blocks.get(key, 0) + 1
        passes -= len(match[0]) - (not match[0][-1] & FAILED)
    retried = sum(runs.count(flags) for flags in (RETRIED, RETRIED | SAME_COMMIT))
    logs = [prior + passes * each for prior, each in zip(_PRIOR, _LOG_PASS, strict=True)]
    if retried:
        logs = [log + retried * each for log, each in zip(logs, _LOG_FAILURE, strict=True)]
    for (block, first), count in blocks.items():
        logs = [log + count * each for log, each in zip(logs, _explain(block, first)[0], strict=True)]
    highest = max(logs)
    weights = [math.exp(log - highest) for log in logs]
    total = sum(weights)
    weights = [weight / total for weight in weights]
    if not runs[-1] & FAILED:
        return weights, _NOT_BROKEN
    # No other block ends without a pass, so the last one was not counted with an earlier one.
    return weights, _explain(*list(blocks)[-1])[1]


@lru_cache(maxsize=1024)
def _explain(block: bytes, first: bool) -> tuple[tuple[float, ...], tuple[float, ...]]:
    """Returns two lists with an item for each of _RATES: the logarithm of the likelihood of the failures in `block`,
    and the probability that the code is broken at the end of `block`. `block` has failures in a row, and the run that
    passed after them if there is one. The likelihood does not include the result of that run. `first` says that no run
    precedes `block`. Otherwise the run before `block` passed, so the code was good then.
    """
    logs, broken_shares = [], []
    for rate in _RATES:
        broken = BREAK_RATE / (BREAK_RATE + FIX_RATE) if first else 0.0
        good, log = 1 - broken, 0.0
        for index, run in enumerate(block):
            if not run & SAME_COMMIT and (index or not first):
                change = good * BREAK_RATE - broken * FIX_RATE
                good, broken = good - change, broken + change
            if run & FAILED:
                good *= rate
            else:
                broken = 0.0
            if (total := good + broken) < _SMALL:
                scale = max(total, _SMALL**2)
                log += math.log(scale)
                good, broken = good / scale, broken / scale
        total = max(good + broken, _SMALL**2)
        logs.append(log + math.log(total))
        broken_shares.append(broken / total)
    return tuple(logs), tuple(broken_shares)


def _find_quantile(weights: Sequence[float], share: float) -> float:
    """Returns the rate that the flake rate does not exceed with a probability of `share`."""
    below = weights[0]
    if share <= below:
        return 0.0
    previous = below
    for index, weight in enumerate(weights[1:]):
        middle = below + weight / 2
        if middle >= share:
            width = (_HIGHEST - _LOWEST) / (_STEPS - 1)
            part = (share - previous) / (middle - previous) if middle > previous else 1.0
            return 1 / (1 + math.exp(-(_LOG_ODDS[index] - (1 - part) * width)))
        below, previous = below + weight, middle
    return _RATES[-1]


def _measure_transitions(runs: bytes) -> float:
    counted, weight, total = 0.0, 1.0, 0.0
    for index in range(len(runs) - 1, 0, -1):
        if (runs[index] ^ runs[index - 1]) & FAILED or runs[index] & RETRIED:
            counted += weight
        total += weight
        weight *= RECENCY
    return counted / total if total else 0.0


def _find_trend(runs: bytes) -> Trend:
    half = len(runs) // 2
    if not any(run & (FAILED | RETRIED) for run in runs):
        return "stable"
    earlier, later = (_compute_posterior(part)[0] for part in (runs[:half], runs[half:]))
    if _compare(earlier, later) >= TREND_FROM:
        return "worsening"
    return "improving" if _compare(later, earlier) >= TREND_FROM else "stable"


def _compare(lower: Sequence[float], higher: Sequence[float]) -> float:
    """Returns the probability that the rate with the posterior `lower` is below the rate with the posterior `higher`,
    given that the test is flaky.
    """
    below, probability = 0.0, 0.0
    for low, high in zip(lower[1:], higher[1:], strict=True):
        probability += high * below
        below += low
    return probability / (sum(lower[1:]) * sum(higher[1:]))


WARM_UP = 100
"""Least number of earlier runs of a test that show its rate of failures well enough to notice a rise of this rate."""
LOWEST_BASELINE = 0.005
"""Least earlier rate of failures that `observe` assumes, even if a test has failed less often. So three failures within
25 runs are noticed in a test that never failed before.
"""
CAUTION = 0.1
"""Number of standard deviations by which the earlier rate of failures is assumed to be higher than its mean, even if
very many runs are known. Too low a rate would cause false alarms.
"""
CAUTION_RUNS = 250.0
"""This number, divided by the number of known runs, is added to CAUTION, since a few runs say little."""
RISE = 8.0
"""Factor by which the odds of a failure are assumed to grow when a test begins to fail more often. The evidence in
DriftState compares this assumption with that of unchanged odds.
"""
RUNS_PER_FALSE_ALARM = 10_000
MAX_STREAK = 5
"""Largest number of failures in a row that count as evidence of emerging flakiness. The longer a streak is, the
more likely is broken code, and the less its failures say about flakiness.
"""
MAX_COUNTED = 2
"""Largest number of failures in a row that count for the earlier rate of failures."""


class DriftState(msgspec.Struct, frozen=True):
    """A test as `observe` knows it: its earlier failures, and the evidence that failures have become more frequent.

    The evidence is the logarithm of a likelihood ratio, a CUSUM (Page 1954). It begins with a failure, and is dropped
    when passes have used it up. Then the runs since the evidence began are counted as earlier runs. But if flakiness
    had emerged, only the passes since the last failure are counted as earlier runs.
    """

    runs: int = 0
    failures: int = 0
    """Number of failures among the `runs` before the evidence began."""
    recent_runs: int = 0
    recent_failures: int = 0
    """Number of failures among the `recent_runs` since the evidence began."""
    failure_evidence: float = 0.0
    """Evidence just after the last failure; 0 without evidence."""
    passes: int = 0
    """Number of passes since the last failure; 0 without evidence."""
    pass_evidence: float = 0.0
    """Evidence that each of these `passes` takes away."""
    threshold: float = 0.0
    streak: int = 0
    """Number of failures in a row up to the last run."""
    is_emerging: bool = False
    """Whether the failures have become more frequent: from the run at which the evidence reached the threshold, until
    the evidence is used up.
    """

    @property
    def evidence(self) -> float:
        return self.failure_evidence - self.passes * self.pass_evidence


def observe(state: DriftState, run: int) -> DriftState:
    """Returns the state after one more run."""
    if run & LEFT_OUT:
        return state
    if run & (FAILED | RETRIED):
        return _observe_failure(state, 0 if run & RETRIED else state.streak + 1)
    return observe_passes(state, 1)


def observe_passes(state: DriftState, count: int) -> DriftState:
    """Returns the state after `count` runs that passed at the first attempt: the same as `count` calls of `observe`."""
    if not count:
        return state
    passes = state.passes + count
    if state.failure_evidence > passes * state.pass_evidence:
        return msgspec.structs.replace(state, passes=passes, recent_runs=state.recent_runs + count, streak=0)
    if state.is_emerging:
        return DriftState(runs=state.runs + passes, failures=state.failures)
    return DriftState(runs=state.runs + state.recent_runs + count, failures=state.failures + state.recent_failures)


def _observe_failure(state: DriftState, streak: int) -> DriftState:
    """Returns the state after a run that failed, or passed on a retry. `streak` is the state's new `streak`."""
    if streak > MAX_STREAK:
        return msgspec.structs.replace(state, streak=streak)
    counted = streak <= MAX_COUNTED
    if state.runs < WARM_UP:
        return DriftState(runs=state.runs + counted, failures=state.failures + counted, streak=streak)
    known = state.runs + RATE_FAILURES + RATE_PASSES
    mean = (state.failures + RATE_FAILURES) / known
    caution = CAUTION + CAUTION_RUNS / known
    before = max(LOWEST_BASELINE, mean + caution * math.sqrt(mean * (1 - mean) / known))
    odds = RISE * before / (1 - before)
    risen = odds / (1 + odds)
    ratio = math.log(risen / before)
    threshold = math.log(RUNS_PER_FALSE_ALARM * risen * (1 - before / risen) / ratio)
    gain = _weigh_failure(risen, streak) - _weigh_failure(before, streak) if streak else ratio
    evidence = min(threshold, state.evidence + gain)
    return DriftState(
        runs=state.runs,
        failures=state.failures,
        recent_runs=state.recent_runs + counted,
        recent_failures=state.recent_failures + counted,
        failure_evidence=evidence,
        pass_evidence=math.log((1 - before) / (1 - risen)),
        threshold=threshold,
        streak=streak,
        is_emerging=state.is_emerging or evidence >= threshold,
    )


def _weigh_failure(rate: float, streak: int) -> float:
    """Returns the logarithm of the probability of a streak's last failure, given the streak's earlier failures."""
    good, broken, before = 1.0, 0.0, 1.0
    for _ in range(streak):
        before = good + broken
        good, broken = good * rate, good * BREAK_RATE + broken * (1 - FIX_RATE)
    return math.log((good + broken) / before)
