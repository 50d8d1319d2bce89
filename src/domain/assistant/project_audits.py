"""Audit of a project: a score from 0 to 100, and what to do about the largest losses.

Each of five measures can cost points, in proportion to its value: none at 0, and all of its points from its limit on.

    builds that failed     35 points if half of the builds or more failed
    flaky tests            20 points for 20 tests or more
    time to green          15 points if it takes two days or more until a failed branch passes again
    unread failures        15 points if nobody and no rule has classified any failure
    quarantine             15 points if the tests in quarantine have been there for 90 days on average, or longer
"""

from collections.abc import Collection, Iterable, Iterator, Sequence
from typing import Literal

import msgspec

from domain.assistant.answers import Answer, AnswerClaim, NextStep
from domain.health_advice import KnownCause
from domain.phrases import count
from domain.triage import Classification

Measure = Literal["failed_builds", "flaky_tests", "time_to_green", "unread_failures", "quarantine"]

POINTS: dict[Measure, int] = {
    "failed_builds": 35,
    "flaky_tests": 20,
    "time_to_green": 15,
    "unread_failures": 15,
    "quarantine": 15,
}
FAILED_SHARE_LIMIT = 0.5
FLAKY_LIMIT = 20
TIME_TO_GREEN_LIMIT_S = 2 * 86_400
QUARANTINE_LIMIT_DAYS = 90
MAX_NAMED = 3
"""Largest number of tests that a recommendation names."""
MAX_ISSUES = 3
"""Largest number of known issues that an audit recommends to create."""
MAX_MESSAGE = 120
"""Largest number of characters that a recommendation quotes of a failure's message."""


class UnstableTest(msgspec.Struct, frozen=True):
    """A test of the project that fails now and then."""

    case_id: int
    name: str
    job_id: int
    """Job in which the test failed last."""
    flake_rate: float
    is_quarantined: bool = False
    is_infrastructure: bool = False
    """Whether outages (of the machine, the network or another system), and not flakiness, made the test fail now and
    then.
    """
    known: KnownCause | None = None
    """Known issue that explains the failures of the test as a bug; None if none does."""


class QuarantineEntryFacts(msgspec.Struct, frozen=True):
    job_id: int
    node_id: str
    days: int
    """Days since the entry was added."""
    is_over: bool
    """Whether the entry has expired or its tests have recovered, so that the entry can be removed."""


class UnreadCluster(msgspec.Struct, frozen=True):
    """Failures with one signature that nobody and no rule has classified."""

    signature: str
    message: str
    failures: int
    builds: int
    result_id: int
    """Id of one of the failures."""
    classification: Classification
    """Probable classification of the failures."""
    tests: tuple[str, ...] = ()
    """Names of the tests of some of the failures."""
    last_build: int | None = None
    """Id of the newest build with one of the failures."""


def put_present_first(clusters: Iterable[UnreadCluster], red: Collection[int]) -> list[UnreadCluster]:
    """Returns the clusters in a new order. First come those whose newest build is in `red`, the builds because of which
    jobs are red now. The causes of the other clusters may have been mended.
    """
    return sorted(clusters, key=lambda cluster: cluster.last_build not in red)


class ProjectAuditFacts(msgspec.Struct, frozen=True):
    project_id: int
    days: int
    passed: int = 0
    """Number of builds of the window that passed."""
    failed: int = 0
    time_to_green_s: float | None = None
    """Median number of seconds from the first failed build of a branch to the next build of the branch that passed.
    None if no such build passed.
    """
    flaky_tests: tuple[UnstableTest, ...] = ()
    """Tests that fail now and then: because they are flaky, because of a known bug, or because of outages."""
    quarantine: tuple[QuarantineEntryFacts, ...] = ()
    failures: int = 0
    """Number of failed results that were looked at."""
    unread: int = 0
    """Number of those `failures` that nobody and no rule has classified."""
    unread_clusters: tuple[UnreadCluster, ...] = ()
    """Clusters of the unread failures, the most frequent first."""

    @property
    def flakes(self) -> list[UnstableTest]:
        """Tests of `flaky_tests` that are really flaky: neither outages nor a known bug explain their failures.
        Quarantine of the other tests would only hide the cause.
        """
        return [test for test in self.flaky_tests if not test.is_infrastructure and test.known is None]


class Recommendation(msgspec.Struct, frozen=True):
    """One piece of advice: the API request that carries it out, and the sources that say why."""

    step: NextStep
    sources: tuple[str, ...]


class ProjectAudit(msgspec.Struct, frozen=True):
    audit_score: int
    lost_points: dict[Measure, float]
    recommendations: tuple[Recommendation, ...]


def audit(facts: ProjectAuditFacts) -> ProjectAudit:
    lost: dict[Measure, float] = {
        measure: round(POINTS[measure] * share, 1) for measure, share in _measure(facts).items()
    }
    return ProjectAudit(max(0, round(100 - sum(lost.values()))), lost, tuple(_recommend(facts)))


def summarize_audit(facts: ProjectAuditFacts, found: ProjectAudit) -> Answer:
    """Returns the audit as an answer, in which each claim cites its sources."""
    project = (f"project:{facts.project_id}",)
    ended = facts.passed + facts.failed
    builds = f"{facts.passed:,} of {ended:,} builds passed" if ended else "no build passed or failed"
    claims = [AnswerClaim(f"The project scores {found.audit_score} of 100.", project)]
    claims.append(AnswerClaim(f"In {facts.days} days, {builds}.", project))
    if facts.flakes:
        flaky = tuple(f"test_case:{test.case_id}" for test in facts.flakes)
        claims.append(AnswerClaim(f"{_count(len(flaky), 'test')} probably flaky.", flaky))
    if unstable := [test for test in facts.flaky_tests if test.is_infrastructure]:
        text = (
            f"{count(len(unstable), 'test')} failed now and then by the machine, the network or another system only:"
            f" {_name([test.name for test in unstable])}."
        )
        claims.append(AnswerClaim(text, tuple(f"test_case:{test.case_id}" for test in unstable)))
    claims += _describe_known(facts.flaky_tests)
    if facts.failures:
        read = f"{facts.unread:,} of {facts.failures:,} failures have no classification."
        claims.append(AnswerClaim(read, tuple(f"test:{one.result_id}" for one in facts.unread_clusters) or project))
    if facts.quarantine:
        claims.append(AnswerClaim(f"{_count(len(facts.quarantine), 'entry')} in quarantine.", project))
    claims += [AnswerClaim(one.step.text, one.sources) for one in found.recommendations]
    first = found.recommendations[0].step if found.recommendations else None
    return Answer(tuple(claims), next_step=first, confidence=1.0)


def _describe_known(tests: Iterable[UnstableTest]) -> Iterator[AnswerClaim]:
    """Yields a claim for each known bug that makes tests fail now and then."""
    by_issue: dict[KnownCause, list[UnstableTest]] = {}
    for test in tests:
        if test.known is not None:
            by_issue.setdefault(test.known, []).append(test)
    for issue, of_issue in by_issue.items():
        text = (
            f"Known issue {issue.known_issue_id}, “{issue.title}”, makes {count(len(of_issue), 'test')} fail now and"
            f" then: {_name([test.name for test in of_issue])}. Mend it: quarantine would only hide it."
        )
        yield AnswerClaim(text, tuple(f"test_case:{test.case_id}" for test in of_issue))


def _measure(facts: ProjectAuditFacts) -> dict[Measure, float]:
    """Returns measure -> share of its points that the project loses by it, from 0 to 1."""
    ended = facts.passed + facts.failed
    ages = [entry.days for entry in facts.quarantine]
    return {
        "failed_builds": min(1.0, facts.failed / ended / FAILED_SHARE_LIMIT) if ended else 0.0,
        "flaky_tests": min(1.0, len(facts.flakes) / FLAKY_LIMIT),
        "time_to_green": min(1.0, (facts.time_to_green_s or 0.0) / TIME_TO_GREEN_LIMIT_S),
        "unread_failures": facts.unread / facts.failures if facts.failures else 0.0,
        "quarantine": min(1.0, sum(ages) / len(ages) / QUARANTINE_LIMIT_DAYS) if ages else 0.0,
    }


def _recommend(facts: ProjectAuditFacts) -> Iterator[Recommendation]:
    flakes: dict[int, list[UnstableTest]] = {}
    for test in facts.flakes:
        if not test.is_quarantined:
            flakes.setdefault(test.job_id, []).append(test)
    for job_id, tests in sorted(flakes.items(), key=lambda item: (-len(item[1]), item[0])):
        names = [test.name for test in tests]
        rates = sorted(test.flake_rate for test in tests)
        which = f"{rates[0]:.0%}" if len(rates) == 1 else f"{rates[0]:.0%} to {rates[-1]:.0%}"
        text = (
            f"Quarantine {count(len(names), 'flaky test')} of job {job_id}, which fail in {which} of their runs on"
            f" good code: {_name(names)}."
        )
        body = {"job_id": job_id, "action": "add", "node_ids": names, "reason": "flaky"}
        step = NextStep("quarantine", text, "POST", "/quarantine/bulk", body)
        yield Recommendation(step, tuple(f"test_case:{test.case_id}" for test in tests))
    over: dict[int, list[str]] = {}
    for entry in facts.quarantine:
        if entry.is_over:
            over.setdefault(entry.job_id, []).append(entry.node_id)
    for job_id, names in sorted(over.items(), key=lambda item: (-len(item[1]), item[0])):
        text = (
            f"Take {len(names)} of job {job_id} out of quarantine, since they pass again or their time is over:"
            f" {_name(names)}."
        )
        body = {"job_id": job_id, "action": "remove", "node_ids": names}
        step = NextStep("quarantine", text, "POST", "/quarantine/bulk", body)
        yield Recommendation(step, (f"project:{facts.project_id}",))
    flaky = {test.name for test in facts.flakes}
    # A failure that only flaky tests have is flaky, too, and quarantine deals with it.
    unread = [one for one in facts.unread_clusters if not one.tests or not flaky.issuperset(one.tests)]
    for one in unread[:MAX_ISSUES]:
        message = " ".join(one.message.split())[:MAX_MESSAGE] or "a failure without a message"
        last = f", at last in build {one.last_build}" if one.last_build is not None else ""
        text = (
            f"Make a known issue of “{message}”, which has {count(one.failures, 'failure')} in"
            f" {count(one.builds, 'build')} that nobody has classified{last}."
        )
        body = {
            "project_id": facts.project_id,
            "title": message,
            "classification": one.classification,
            "signature": one.signature,
        }
        yield Recommendation(NextStep("known_issue", text, "POST", "/known-issues", body), (f"test:{one.result_id}",))


def _count(number: int, what: str) -> str:
    if number == 1:
        return f"1 {what} is"
    return f"{number:,} {'entries' if what == 'entry' else f'{what}s'} are"


def _name(names: Sequence[str]) -> str:
    more = f" and {len(names) - MAX_NAMED:,} more" if len(names) > MAX_NAMED else ""
    return ", ".join(names[:MAX_NAMED]) + more
