"""Tests of the commands on existing builds: move to the top, comment, pin, delete."""

from typing import Any

import hypothesis
import pytest

from commands.build_actions import CommentOnBuild, DeleteBuild, MoveBuildToTop, PinBuild
from commands.builds import FinishExternalBuild
from domain import builds
from domain.builds import (
    BuildAssigned,
    BuildCommented,
    BuildDeleted,
    BuildFinished,
    BuildMovedToTop,
    BuildPinned,
    BuildQueued,
    BuildStarted,
    BuildUnpinned,
    ReportRecorded,
    Verdict,
)
from domain.core.errors import Conflict, NotFound
from domain.core.events import Event
from tests.support.spec import given, is_decided_once
from tests.support.strategies import commands, histories

IDS: dict[str, Any] = {"build_id": 1, "job_id": 5, "project_id": 2}
QUEUED = BuildQueued(**IDS, branch="dev")
ASSIGNED = BuildAssigned(**IDS, node_id=3, attempt=1)
STARTED = BuildStarted(**IDS, node_id=3, attempt=1)
FINISHED = BuildFinished(**IDS, status="passed", node_id=3)
PINNED, UNPINNED = BuildPinned(**IDS), BuildUnpinned(**IDS)
DELETED = BuildDeleted(**IDS)
RAN = (QUEUED, ASSIGNED, STARTED, FINISHED)
COMMENT = CommentOnBuild(1, 88, "Flaky — läuft", 7)
COMMENTED = BuildCommented(**IDS, comment_id=88, text="Flaky — läuft", author=7)


def reported(first: int, cases: int, path: str) -> ReportRecorded:
    counts: dict[str, Any] = {
        "cases": cases,
        "passed": cases,
        "failed": 0,
        "skipped": 0,
        "known_issues": 0,
        "duration_ms": 1,
    }
    return ReportRecorded(**IDS, attempt=1, path=path, first_result_id=first, blocks=1, **counts)


def ran(build_id: int, status: Verdict, **fields: Any) -> tuple[Event, ...]:
    ids: dict[str, Any] = IDS | {"build_id": build_id}
    return BuildQueued(**ids, **fields), BuildFinished(**ids, status=status)


def is_refused(build_id: int, others: list[int], *history: Event) -> bool:
    try:
        given(*history).when(DeleteBuild(build_id, others=others))
    except Conflict:
        return True
    return False


@pytest.mark.parametrize("length", [1, 2, 3, 4])
def test_a_build_is_commented_on_at_any_time(length: int) -> None:
    given(*RAN[:length]).when(COMMENT).then(COMMENTED)
    given(*RAN[:length], COMMENTED).when(COMMENT).then_nothing()


@pytest.mark.parametrize("length", [1, 2, 3, 4])
def test_a_build_is_pinned_at_any_time_and_let_go(length: int) -> None:
    history = RAN[:length]
    given(*history).when(PinBuild(1, True)).then(PINNED)
    given(*history, PINNED).when(PinBuild(1, True)).then_nothing()
    given(*history).when(PinBuild(1, False)).then_nothing()
    given(*history, PINNED).when(PinBuild(1, False)).then(UNPINNED)
    given(*history, PINNED, UNPINNED).when(PinBuild(1, True)).then(PINNED)


def test_a_pin_outlives_what_happens_to_the_build() -> None:
    given(QUEUED, PINNED, ASSIGNED, STARTED, FINISHED).when(PinBuild(1, True)).then_nothing()


def test_deleting_names_the_results_that_go() -> None:
    history = (QUEUED, STARTED, reported(100, 3, "a.xml"), reported(900, 0, "b.xml"), FINISHED)
    (deleted,) = given(*history).when(DeleteBuild(1, "retention"))
    assert deleted == BuildDeleted(**IDS, results=[(100, 3), (900, 0)], reason="retention")
    assert deleted.erases == QUEUED.data_key


def test_the_status_of_a_group_is_not_better_after_a_deletion() -> None:
    other: dict[str, Any] = {"build_id": 2, "job_id": 5, "project_id": 2}
    passed, failed = ran(2, "passed", group_id=1, matrix={"os": "mac"}), ran(1, "failed", group_id=1)
    with pytest.raises(Conflict, match="would be passed instead of failed"):
        given(*failed, *passed).when(DeleteBuild(1, others=[2]))
    given(*failed, *passed).when(DeleteBuild(2, others=[1])).then(BuildDeleted(**other))
    given(*failed, *passed, BuildDeleted(**other)).when(DeleteBuild(1, others=[2])).then(DELETED)
    given(*failed, *passed).when(DeleteBuild(1)).then(DELETED)


def test_no_older_build_of_its_combination_hides_that_a_build_failed() -> None:
    group = (*ran(1, "passed", group_id=1), *ran(2, "failed", group_id=1, restarted_from=1))
    with pytest.raises(Conflict, match="the status of group 1 would be passed instead of failed: delete"):
        given(*group).when(DeleteBuild(2, others=[1]))
    assert not is_refused(1, [2], *group)
    assert not is_refused(2, [1], *group, DELETED)
    better = (*ran(1, "failed", group_id=1), *ran(2, "passed", group_id=1, restarted_from=1))
    assert not is_refused(2, [1], *better), "the group is failed again"
    assert not is_refused(1, [2], *better), "it has been replaced"
    some = (*ran(1, "passed", group_id=1), *ran(2, "failed", group_id=1, test_ids=["a"]))
    assert not is_refused(2, [1], *some), "a build of some tests does not count"


def test_no_original_build_hides_that_its_restart_failed() -> None:
    restarted = (*ran(1, "passed"), *ran(2, "failed", restarted_from=1))
    with pytest.raises(Conflict, match="the status of build 1 and its restarts would be passed instead of failed"):
        given(*restarted).when(DeleteBuild(2, others=[1]))
    assert not is_refused(1, [2], *restarted)
    assert not is_refused(2, [1], *restarted, DELETED)

    between = (*ran(1, "passed"), *ran(2, "passed", restarted_from=1), *ran(3, "failed", restarted_from=2))
    assert is_refused(2, [1, 3], *between), "nothing else says that build 3 is a restart of build 1"
    assert is_refused(3, [1, 2], *between)
    assert not is_refused(1, [2, 3], *between)
    assert not is_refused(2, [1, 3], *between, DELETED)
    side_by_side = (*ran(1, "passed"), *ran(2, "passed", restarted_from=1), *ran(3, "failed", restarted_from=1))
    assert is_refused(3, [1, 2], *side_by_side, DELETED)
    assert not is_refused(2, [1, 3], *side_by_side)


@pytest.mark.parametrize(("length", "state"), [(1, "queued"), (2, "queued"), (3, "running")])
def test_what_has_not_ended_is_not_deleted(length: int, state: str) -> None:
    with pytest.raises(Conflict, match=f"is {state}; stop it"):
        given(*RAN[:length]).when(DeleteBuild(1))


def test_what_is_kept_for_ever_is_not_deleted() -> None:
    with pytest.raises(Conflict, match="kept for ever"):
        given(*RAN, PINNED).when(DeleteBuild(1))
    given(*RAN, PINNED, UNPINNED).when(DeleteBuild(1)).then(DELETED)


@pytest.mark.parametrize("history", [(), (*RAN, DELETED)])
@pytest.mark.parametrize(
    "command",
    [
        COMMENT,
        PinBuild(1, True),
        PinBuild(1, False),
        DeleteBuild(1),
        MoveBuildToTop(1),
        FinishExternalBuild(1, "passed"),
    ],
)
def test_what_is_not_there(command: Any, history: tuple[Event, ...]) -> None:
    with pytest.raises(NotFound, match="build 1"):
        given(*history).when(command)


def test_a_queued_build_moves_to_the_top() -> None:
    moved = BuildMovedToTop(**IDS)
    given(QUEUED).when(MoveBuildToTop(1)).then(moved)
    assert given(QUEUED, moved).when(MoveBuildToTop(1)) == [moved], "others may have been moved before it meanwhile"


@pytest.mark.parametrize(("length", "state"), [(2, "assigned"), (3, "running"), (4, "passed")])
def test_only_a_queued_build_moves(length: int, state: str) -> None:
    with pytest.raises(Conflict, match=state):
        given(*RAN[:length]).when(MoveBuildToTop(1))


@pytest.mark.parametrize("kind", [CommentOnBuild, PinBuild, DeleteBuild])
def test_deciding_again_does_nothing(kind: type[Any]) -> None:
    @hypothesis.given(commands(kind), histories(*builds.EVENTS))
    def holds(command: Any, history: list[Event]) -> None:
        is_decided_once(command, history)

    holds()
