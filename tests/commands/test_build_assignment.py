"""Tests of the leadership of dispatch, of assignments, and of builds that their nodes lost."""

from typing import Any

import hypothesis
import msgspec
import pytest

from commands.build_assignment import MAX_BUILD_ATTEMPTS, AcknowledgeBuild, AssignBuild, LoseBuild, TakeLeadership
from domain import dispatch
from domain.build_groups import BuildGroupCommitChosen
from domain.builds import BUILD, BuildAssigned, BuildFinished, BuildQueued, BuildRequeued
from domain.core.errors import Conflict
from domain.core.events import Event
from domain.dispatch import LEADER, LeadershipTaken
from domain.results import FAILED, PASSED, SKIPPED, ResultsReplaced, commit_number, count_no_more
from store.tables.build_logs import LogEnd
from tests.commands.test_builds import (
    ABORTED,
    ASSIGNED,
    CONFIGURATION,
    EXTERNAL,
    IDS,
    LED,
    QUEUED,
    STARTED,
    reported,
    requeued,
)
from tests.projections.test_results import block
from tests.support.spec import folds, given, is_decided_once
from tests.support.strategies import commands, histories

MINE, ANOTHERS = LeadershipTaken(leader="me"), LeadershipTaken(leader="another")


def test_leadership_is_taken() -> None:
    given().when(TakeLeadership("me")).then(MINE)
    given(ANOTHERS).when(TakeLeadership("me")).then(MINE)
    given(ANOTHERS, MINE, ANOTHERS).when(TakeLeadership("me")).then(MINE)


def test_who_leads_already_does_not_take_it_again() -> None:
    given(ANOTHERS, MINE).when(TakeLeadership("me")).then_nothing()


def test_the_last_one_leads() -> None:
    assert LEADER.at("leader").fold([MINE, ANOTHERS]) == "another"
    assert MINE.stream == LEADER.at("leader").name


def test_the_leader_assigns_what_is_queued() -> None:
    command = AssignBuild(1, 3, "me")
    given(LED, QUEUED).when(command).then(ASSIGNED)
    given(LED, QUEUED, ASSIGNED, requeued()).when(command).then(BuildAssigned(**IDS, node_id=3, attempt=2))
    assert ASSIGNED.notifies == "3:1"


@pytest.mark.parametrize("history", [(), (QUEUED, ASSIGNED), (QUEUED, ASSIGNED, STARTED), (QUEUED, ABORTED), EXTERNAL])
def test_nothing_else_is_assigned(history: tuple[Event, ...]) -> None:
    given(LED, *history).when(AssignBuild(1, 3, "me")).then_nothing()


@pytest.mark.parametrize("history", [(), (LED, LeadershipTaken(leader="another"))])
def test_who_does_not_lead_assigns_nothing(history: tuple[Event, ...]) -> None:
    with pytest.raises(Conflict, match="Another dispatcher leads"):
        given(*history, QUEUED).when(AssignBuild(1, 3, "me"))


def test_an_agent_takes_its_build_up() -> None:
    given(QUEUED, ASSIGNED).when(AcknowledgeBuild(1, 3, 1, "c0ffee")).then(STARTED)
    given(QUEUED, ASSIGNED, STARTED).when(AcknowledgeBuild(1, 3, 1, "c0ffee")).then_nothing()


def test_a_commit_that_was_asked_for_is_the_one_that_runs() -> None:
    asked = BuildQueued(**IDS, configuration=CONFIGURATION, branch="dev", commit_sha="c0ffee")
    given(asked, ASSIGNED).when(AcknowledgeBuild(1, 3, 1, None)).then(STARTED)


def test_the_first_commit_of_a_group_is_that_of_all_its_builds() -> None:
    in_group = msgspec.structs.replace(QUEUED, group_id=1)
    chosen = BuildGroupCommitChosen(**IDS, group_id=1, commit_sha="c0ffee", commit_number=commit_number("c0ffee"))
    given(in_group, ASSIGNED).when(AcknowledgeBuild(1, 3, 1, "c0ffee")).then(chosen, STARTED)
    given(chosen, in_group, ASSIGNED).when(AcknowledgeBuild(1, 3, 1, "c0ffee")).then(STARTED)
    given(in_group, ASSIGNED).when(AcknowledgeBuild(1, 3, 1, None)).then(
        msgspec.structs.replace(STARTED, commit_sha=None)
    )

    other = requeued(reason="other_commit")
    given(chosen, in_group, ASSIGNED).when(AcknowledgeBuild(1, 3, 1, "decade")).then(other)
    of_older_server = msgspec.structs.replace(chosen, commit_number=0)
    given(of_older_server, in_group, ASSIGNED).when(AcknowledgeBuild(1, 3, 1, "decade")).then(other)

    last = msgspec.structs.replace(ASSIGNED, attempt=MAX_BUILD_ATTEMPTS)
    (ended,) = given(chosen, in_group, last).when(AcknowledgeBuild(1, 3, MAX_BUILD_ATTEMPTS, "decade"))
    assert isinstance(ended, BuildFinished)
    assert (ended.status, ended.reason) == ("failed", "checkout_failed")


def test_the_commit_of_a_deleted_build_still_is_that_of_its_group() -> None:
    in_group = msgspec.structs.replace(QUEUED, group_id=1)
    chosen = BuildGroupCommitChosen(**IDS, group_id=1, commit_sha="c0ffee", commit_number=commit_number("c0ffee"))
    erased = msgspec.structs.replace(chosen, commit_sha=None)
    given(erased, in_group, ASSIGNED).when(AcknowledgeBuild(1, 3, 1, "decade")).then(requeued(reason="other_commit"))
    last = msgspec.structs.replace(ASSIGNED, attempt=MAX_BUILD_ATTEMPTS)
    (ended,) = given(erased, in_group, last).when(AcknowledgeBuild(1, 3, MAX_BUILD_ATTEMPTS, "decade"))
    assert isinstance(ended, BuildFinished)
    assert (ended.status, ended.reason) == ("failed", "checkout_failed")
    assert "whose build was deleted: start the job again" in str(ended.detail)

    again = (chosen, STARTED)  # later builds are told the commit again
    given(erased, in_group, ASSIGNED).when(AcknowledgeBuild(1, 3, 1, "c0ffee")).then(*again)


def test_a_commit_that_an_older_server_has_erased_may_be_any() -> None:
    in_group = msgspec.structs.replace(QUEUED, group_id=1)
    erased = BuildGroupCommitChosen(**IDS, group_id=1)
    given(erased, in_group, ASSIGNED).when(AcknowledgeBuild(1, 3, 1, "c0ffee")).then(requeued(reason="other_commit"))
    restarted = msgspec.structs.replace(in_group, commit_sha="c0ffee")  # restarts are of the commit of the group
    chosen, started = given(erased, restarted, ASSIGNED).when(AcknowledgeBuild(1, 3, 1, "c0ffee"))
    assert isinstance(chosen, BuildGroupCommitChosen)
    assert started == STARTED


def test_an_agent_runs_no_other_commit_than_its_build_is_of() -> None:
    asked = msgspec.structs.replace(QUEUED, commit_sha="c0ff")
    with pytest.raises(Conflict, match="is of commit c0ff, not of decade"):
        given(asked, ASSIGNED).when(AcknowledgeBuild(1, 3, 1, "decade"))
    given(asked, ASSIGNED).when(AcknowledgeBuild(1, 3, 1, "c0ffee")).then(STARTED)


def test_an_assignment_that_nobody_took_up_goes_back() -> None:
    lost = requeued(reason="not_acknowledged")
    given(QUEUED, ASSIGNED).when(LoseBuild(1, 3, 1, "not_acknowledged")).then(lost)
    given(QUEUED, ASSIGNED, lost).when(LoseBuild(1, 3, 1, "not_acknowledged")).then_nothing()
    assert given(QUEUED, ASSIGNED, STARTED).when(LoseBuild(1, 3, 1, "not_acknowledged")) == [], (
        "it was taken up meanwhile"
    )


def test_a_lost_agents_build_goes_back() -> None:
    given(QUEUED, ASSIGNED, STARTED).when(LoseBuild(1, 3, 1, "agent_lost")).then(requeued())
    given(QUEUED, ASSIGNED).when(LoseBuild(1, 3, 1, "agent_lost")).then(requeued())


def test_the_results_of_a_lost_attempt_count_no_more() -> None:
    first, counting = block(1, PASSED, FAILED), block(1, PASSED, SKIPPED, FAILED, first_result_id=300)
    second = msgspec.structs.replace(reported(1), blocks=2, first_result_id=300, replaces=1)
    history = (QUEUED, ASSIGNED, STARTED, first, reported(1), count_no_more(first), counting, second)
    gone, lost = given(*history).when(LoseBuild(1, 3, 1, "agent_lost"))
    assert gone == count_no_more(counting)
    assert isinstance(gone, ResultsReplaced)
    assert (list(gone.case_ids), gone.statuses) == ([1, 3], bytes([PASSED, FAILED]))
    assert lost == msgspec.structs.replace(requeued(), blocks=1)
    build = BUILD.at(1).fold([*history, gone, lost])
    assert build is not None
    assert (build.results_version, build.failed) == (4, 0), "reports of the next attempt are appended behind it"
    again = BuildAssigned(**IDS, node_id=3, attempt=2)
    given(*history, gone, lost, again).when(LoseBuild(1, 3, 2, "agent_lost")).then(requeued(attempt=2))


@pytest.mark.parametrize("other", [LoseBuild(1, 4, 1, "agent_lost"), LoseBuild(1, 3, 2, "agent_lost")])
def test_another_nodes_loss_is_none(other: LoseBuild) -> None:
    given(QUEUED, ASSIGNED, STARTED).when(other).then_nothing()


@pytest.mark.parametrize(
    ("losses", "reason", "detail"),
    [
        (["agent_lost"] * 3, "agent_lost", "3 nodes lost this build one after the other."),
        (
            ["not_acknowledged"] * 3,
            "not_acknowledged",
            "3 nodes did not begin this build in time, one after the other.",
        ),
        (
            ["not_acknowledged", "agent_lost", "not_acknowledged"],
            "agent_lost",
            "Of 3 nodes one after the other, 1 lost this build and 2 did not begin it in time.",
        ),
    ],
)
def test_a_build_is_not_given_out_for_ever(losses: list[str], reason: str, detail: str) -> None:
    history: list[Event] = [LED, QUEUED]
    for attempt, loss in enumerate(losses, start=1):
        history += given(*history).when(AssignBuild(1, 3, "me"))
        history += given(*history).when(LoseBuild(1, 3, attempt, loss, LogEnd(4, b"", 0)))
    assert [type(event) for event in history[2:]] == [BuildAssigned, BuildRequeued] * (MAX_BUILD_ATTEMPTS - 1) + [
        BuildAssigned,
        BuildFinished,
    ]
    last = history[-1]
    assert isinstance(last, BuildFinished)
    assert (last.status, last.reason, last.detail, last.log_lines) == ("aborted", reason, detail, 4)


def test_a_lost_build_says_how_it_was_lost() -> None:
    how = "the agent of node 3 did not run it any more and had not reported its end"
    history: list[Event] = [LED, QUEUED]
    for attempt in range(1, MAX_BUILD_ATTEMPTS + 1):
        history += given(*history).when(AssignBuild(1, 3, "me"))
        history += given(*history).when(LoseBuild(1, 3, attempt, "agent_lost", detail=how))
    assert history[3] == msgspec.structs.replace(requeued(), detail=how)
    last = history[-1]
    assert isinstance(last, BuildFinished)
    assert (last.reason, last.detail) == (
        "agent_lost",
        f"3 nodes lost this build one after the other. The last time, {how}.",
    )


@hypothesis.given(commands(TakeLeadership), histories(*dispatch.EVENTS))
def test_deciding_again_does_nothing(command: Any, history: list[Event]) -> None:
    is_decided_once(command, history)


@hypothesis.given(histories(*dispatch.EVENTS))
def test_folding_never_fails(history: list[Event]) -> None:
    folds(LEADER, history)
