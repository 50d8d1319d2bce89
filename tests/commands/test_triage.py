"""What is said of failed results."""

from typing import Any

import hypothesis
import pytest

from commands.triage import MAX_TAUGHT, ClassifyResult, LinkDefect, LinkKnownIssue, SetResolution, TriagedResult
from domain import builds, jobs, known_issues, triage
from domain.builds import BuildDeleted, BuildQueued
from domain.core.errors import Conflict, NotFound
from domain.core.events import Event
from domain.jobs import JobCreated, JobDeleted
from domain.known_issues import KnownIssueCreated, KnownIssueDeleted, KnownIssueFailureAdded
from domain.triage import (
    TRIAGE,
    WEIGHT,
    DefectLinked,
    KnownIssueLinked,
    ResolutionSet,
    ResultClassified,
    Triage,
)
from tests.support.spec import folds, given, is_decided_once
from tests.support.strategies import commands, histories

IDS: dict[str, Any] = {"build_id": 7, "job_id": 5, "project_id": 1}
RESULT = TriagedResult(result_id=100, **IDS, status="failed", fail_id="f1", signature="s1")
OF_RESULT: dict[str, Any] = {"result_id": 100, **IDS}
GIVEN = (BuildQueued(**IDS), JobCreated(job_id=5, project_id=1, title="Smoke"))
ISSUE = KnownIssueCreated(
    known_issue_id=17, project_id=1, title="Flaky DB", classification="infra", kind="pattern", value="ECONNRESET"
)
ANN, BOB = 7, 8
EVERY = (
    ClassifyResult(RESULT, "flaky", "user", ANN),
    LinkDefect(RESULT, "A-1", "https://jira/A-1", ANN),
    SetResolution(RESULT, "fixed", ANN),
    LinkKnownIssue(RESULT, 17, ANN),
)


def by_user(what: Any, who: int = ANN, **more: Any) -> ResultClassified:
    return ResultClassified(**OF_RESULT, signature="s1", classification=what, set_by_kind="user", set_by=who, **more)


def test_a_person_classifies() -> None:
    given(*GIVEN).when(ClassifyResult(RESULT, "flaky", "user", ANN)).then(by_user("flaky"))


def test_what_was_there_before_is_told() -> None:
    again = given(*GIVEN, by_user("flaky")).when(ClassifyResult(RESULT, "infra", "user", BOB))
    assert again == [by_user("infra", BOB, replaced="flaky", replaced_kind="user")]
    of_rule = TriagedResult(result_id=100, **IDS, status="failed", signature="s1", by_rule="infra", rule=17)
    over_rule = given(*GIVEN).when(ClassifyResult(of_rule, "flaky", "user", ANN))
    assert over_rule == [by_user("flaky", replaced="infra", replaced_kind="rule")]


@pytest.mark.parametrize("kind", ["rule", "ai"])
def test_nothing_overrides_a_person(kind: Any) -> None:
    given(*GIVEN, by_user("flaky")).when(ClassifyResult(RESULT, "infra", kind)).then_nothing()


def test_a_model_does_not_override_a_rule() -> None:
    of_rule = TriagedResult(result_id=100, **IDS, status="failed", by_rule="infra", rule=17)
    given(*GIVEN).when(ClassifyResult(of_rule, "flaky", "ai")).then_nothing()
    (event,) = given(*GIVEN).when(ClassifyResult(RESULT, "flaky", "ai"))
    assert isinstance(event, ResultClassified)
    assert (event.classification, event.set_by_kind) == ("flaky", "ai")


def test_a_defect() -> None:
    linked = DefectLinked(**OF_RESULT, defect_key="A-1", defect_url="https://jira/A-1", set_by=ANN)
    given(*GIVEN).when(LinkDefect(RESULT, "A-1", "https://jira/A-1", ANN)).then(linked)
    (moved,) = given(*GIVEN, linked).when(LinkDefect(RESULT, "A-2", "https://jira/A-2", BOB))
    assert isinstance(moved, DefectLinked)
    assert (moved.replaced_key, moved.replaced_url) == ("A-1", "https://jira/A-1")


def test_a_resolution() -> None:
    noted = ResolutionSet(**OF_RESULT, resolution="fixed", set_by=ANN)
    given(*GIVEN).when(SetResolution(RESULT, "fixed", ANN)).then(noted)
    again = ResolutionSet(**OF_RESULT, resolution="really", set_by=ANN, replaced="fixed")
    given(*GIVEN, noted).when(SetResolution(RESULT, "really", ANN)).then(again)


def test_linking_a_known_issue_teaches_it() -> None:
    linked = KnownIssueLinked(**OF_RESULT, known_issue_id=17, classification="infra", set_by=ANN)
    taught = KnownIssueFailureAdded(known_issue_id=17, project_id=1, result_id=100, fail_id="f1", signature="s1")
    given(*GIVEN, ISSUE).when(LinkKnownIssue(RESULT, 17, ANN)).then(linked, taught)
    given(*GIVEN, ISSUE, linked, taught).when(LinkKnownIssue(RESULT, 17, ANN)).then_nothing()
    state = TRIAGE.at(100).fold([linked])
    assert (state.classification, state.set_by_kind, state.known_issue_id) == ("infra", "user", 17)
    assert (state.set_by, state.is_by_link) == (ANN, True)
    other = KnownIssueLinked(**OF_RESULT, known_issue_id=18, classification="flaky", set_by=BOB)
    assert TRIAGE.at(100).fold([linked, other]).classification == "flaky"
    decided = by_user("infra")
    given(*GIVEN, linked).when(ClassifyResult(RESULT, "infra", "user", ANN)).then(
        by_user("infra", replaced="infra", replaced_kind="user")
    )
    assert TRIAGE.at(100).fold([linked, decided, other]).classification == "infra", "a person has decided it since"


def test_only_what_is_new_is_taught() -> None:
    taught = KnownIssueFailureAdded(known_issue_id=17, project_id=1, result_id=99, fail_id="f0", signature="s1")
    _, more = given(*GIVEN, ISSUE, taught).when(LinkKnownIssue(RESULT, 17, ANN))
    assert more == KnownIssueFailureAdded(known_issue_id=17, project_id=1, result_id=100, fail_id="f1")


def test_linking_leaves_a_persons_classification() -> None:
    linked = KnownIssueLinked(**OF_RESULT, known_issue_id=17, classification="infra", set_by=BOB)
    state = TRIAGE.at(100).fold([by_user("flaky"), linked])
    assert state == Triage(classification="flaky", set_by_kind="user", set_by=ANN, known_issue_id=17)


def test_the_known_issue_before_is_told() -> None:
    of_rule = TriagedResult(result_id=100, **IDS, status="failed", by_rule="flaky", rule=3)
    (linked,) = given(*GIVEN, ISSUE).when(LinkKnownIssue(of_rule, 17, ANN))
    assert isinstance(linked, KnownIssueLinked)
    assert linked.replaced == 3


def test_an_issue_learns_only_so_much() -> None:
    taught = [
        KnownIssueFailureAdded(known_issue_id=17, project_id=1, result_id=1, signature=f"x{number}")
        for number in range(MAX_TAUGHT)
    ]
    with pytest.raises(Conflict, match="pattern"):
        given(*GIVEN, ISSUE, *taught).when(LinkKnownIssue(RESULT, 17, ANN))


@pytest.mark.parametrize(
    "history",
    [
        (),
        (
            KnownIssueCreated(
                known_issue_id=17, project_id=2, title="x", classification="infra", kind="signature", value="s"
            ),
        ),
        (ISSUE, KnownIssueDeleted(known_issue_id=17, project_id=1)),
    ],
)
def test_there_is_no_such_known_issue(history: tuple[Event, ...]) -> None:
    with pytest.raises(NotFound, match="known issue 17"):
        given(*GIVEN, *history).when(LinkKnownIssue(RESULT, 17))


@pytest.mark.parametrize("status", ["passed", "skipped"])
@pytest.mark.parametrize("kind", [ClassifyResult, LinkDefect, SetResolution, LinkKnownIssue])
def test_only_failures(status: str, kind: Any) -> None:
    result = TriagedResult(result_id=100, **IDS, status=status)
    arguments: dict[Any, tuple[Any, ...]] = {LinkDefect: ("A-1", "https://x"), LinkKnownIssue: (17,)}
    with pytest.raises(Conflict, match=f"100 is {status}; only a failed one"):
        given(*GIVEN, ISSUE).when(kind(result, *arguments.get(kind, ("flaky",))))


@pytest.mark.parametrize("command", EVERY)
@pytest.mark.parametrize(
    "gone", [BuildDeleted(**IDS, results=[(100, 1)]), JobDeleted(job_id=5, project_id=1)], ids=["build", "job"]
)
def test_what_is_gone_is_not_written_about(command: Any, gone: Event) -> None:
    with pytest.raises(NotFound, match="result 100"):
        given(*GIVEN, ISSUE, gone).when(command)


@pytest.mark.parametrize("kind", [ClassifyResult, LinkDefect, SetResolution, LinkKnownIssue])
def test_deciding_again_does_nothing(kind: type[Any]) -> None:
    @hypothesis.given(commands(kind), histories(*triage.EVENTS, *builds.EVENTS, *jobs.EVENTS, *known_issues.EVENTS))
    def holds(command: Any, history: list[Event]) -> None:
        is_decided_once(command, history)

    holds()


@hypothesis.given(histories(*triage.EVENTS))
def test_folding_never_fails(history: list[Event]) -> None:
    folds(TRIAGE, history)
    state = TRIAGE.at(1).fold(event for event in history if event.stream == "result-1")
    assert (state.classification is None) == (state.set_by_kind is None)


@hypothesis.given(commands(ClassifyResult), histories(ResultClassified))
def test_weight_never_falls(command: ClassifyResult, history: list[Event]) -> None:
    of_result = [event for event in history if event.stream == f"result-{command.result.result_id}"]
    before = TRIAGE.at(1).fold(of_result)
    for event in command.decide(before, _build(command), _job(command)) if command.result.status == "failed" else ():
        assert isinstance(event, ResultClassified)
        assert WEIGHT[event.set_by_kind] >= WEIGHT[before.set_by_kind]


def _build(command: ClassifyResult) -> Any:
    return builds.BUILD.at(1).fold([BuildQueued(build_id=1, job_id=1, project_id=1)])


def _job(command: ClassifyResult) -> Any:
    return jobs.JOB.at(1).fold([JobCreated(job_id=1, project_id=1, title="x")])
