"""Supposed rules: what they would have made of the history is what they do make of it where they really hold."""

import asyncio
import dataclasses
import json
from collections.abc import Callable, Mapping
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commands.build_assignment import LoseBuild
from commands.builds import AbortBuild, FinishBuild, FinishExternalBuild, StartBuild
from commands.handler import Command
from commands.known_issues import CreateKnownIssue, DeleteKnownIssue, UpdateKnownIssue
from commands.quarantine import AddToQuarantine, RemoveFromQuarantine
from commands.triage import ClassifyResult, LinkKnownIssue
from commands.triage import TriagedResult as Result
from commands.what_if.rules import WhatIfRules, read_rules
from commands.what_if.simulation import Difference, Simulation, TestDiffers, VerdictDiffers, differences
from domain.builds import BUILD, Assigned, ReportRecorded, Running
from domain.core.columns import Int16s, Int32s
from domain.core.errors import Invalid
from domain.known_issues import KnownIssueFailureAdded
from domain.results import FAILED, Replaced, ResultsRecorded
from tests.commands.simulation_world import JOB, PROJECT, Ran, World, at

A, B = "t.py::test_a", "t.py::test_b"
Step = Callable[[World], None]


def replayed(world: World, what_if: WhatIfRules | dict[str, Any]) -> tuple[list[Difference], Simulation]:
    rules = what_if if isinstance(what_if, WhatIfRules) else read_rules(json.dumps(what_if).encode())
    replay = Simulation(rules)

    async def every() -> list[Difference]:
        return [difference async for difference in differences(world, replay)]

    return asyncio.run(every()), replay


def played(*steps: Step) -> World:
    world = World()
    for number, step in enumerate(steps, start=1):
        world.step = number
        step(world)
    return world


def start(build_id: int, external: bool = False) -> Step:
    def step(world: World) -> None:
        world.do(StartBuild(build_id, JOB, external=external))
        if not external:
            world.run(build_id)

    return step


def run(build_id: int) -> Step:
    return lambda world: world.run(build_id)


def report(build_id: int, path: str, *tests: Ran, replaces: bool = False) -> Step:
    return lambda world: world.report(build_id, path, tests, replaces)


def finish(build_id: int, exit_code: int | None = 1, reason: Any = None) -> Step:
    def step(world: World) -> None:
        build = world.state(BUILD.at(build_id))
        if isinstance(build, Assigned | Running) and build.node_id is not None:
            world.do(FinishBuild(build_id, build.node_id, build.attempt, exit_code, reason, None))
        else:
            world.do(FinishExternalBuild(build_id, "passed" if exit_code == 0 else "failed"))

    return step


def lose(build_id: int) -> Step:
    def step(world: World) -> None:
        build = world.state(BUILD.at(build_id))
        if isinstance(build, Assigned | Running) and build.node_id is not None:
            world.do(LoseBuild(build_id, build.node_id, build.attempt, "agent_lost"))

    return step


def do(command: Any) -> Step:
    return lambda world: world.do(command)


def quarantine(first_id: int, *node_ids: str, minutes: int | None = None) -> Step:
    def step(world: World) -> None:
        expires_at = None if minutes is None else at(world.step + minutes)
        world.do(AddToQuarantine(JOB, first_id, node_ids, at(world.step), expires_at=expires_at))

    return step


def search(known_issue_id: int) -> Step:
    return lambda world: world.search(known_issue_id)


def classify(number: int) -> Step:
    return lambda world: world.classify(number)


def teach(known_issue_id: int, text: str) -> Step:
    def step(world: World) -> None:
        if any(issue.known_issue_id == known_issue_id for issue in world.issues()):
            ids: dict[str, Any] = {"known_issue_id": known_issue_id, "project_id": PROJECT, "result_id": 1}
            world.append([KnownIssueFailureAdded(**ids, fail_id=f"f-{text}", signature=f"s-{text}")])

    return step


DNS = {"title": "DNS", "classification": "infra", "pattern": "no such host"}
ONE_FAILED: tuple[Step, ...] = (
    start(1),
    report(1, "r.xml", Ran(A, text="no such host"), Ran(B, failed=False)),
    finish(1),
)


def test_a_known_issue_that_was_not_there() -> None:
    found, replay = replayed(played(*ONE_FAILED), {"known_issues": [DNS]})
    assert found == [TestDiffers(1, 1, JOB, PROJECT, 1, None, "infra", "DNS", A)]
    assert dataclasses.asdict(replay.counts).items() >= {"builds": 1, "reports": 1, "failures": 1}.items()


def test_a_quarantine_that_was_not_there() -> None:
    world = played(*ONE_FAILED)
    found, _ = replayed(world, {"quarantine": [{"job_id": JOB, "node_ids": ["t.py"]}]})
    why = "1 more of its failures would have been in quarantine"
    assert found == [VerdictDiffers(1, JOB, PROJECT, "failed", "passed", why)]
    assert replayed(world, {"quarantine": [{"job_id": JOB + 1, "node_ids": [A]}]})[0] == []
    for period in ({"from": at(2).isoformat()}, {"from": at(2).isoformat(), "until": at(3).isoformat()}):
        assert replayed(world, {"quarantine": [{"job_id": JOB, "node_ids": [A], **period}]})[0] == found
    for period in ({"from": at(3).isoformat()}, {"until": at(2).isoformat()}):
        assert replayed(world, {"quarantine": [{"job_id": JOB, "node_ids": [A], **period}]})[0] == []


def test_pytest_would_have_ignored_what_is_supposed_to_be_in_quarantine() -> None:
    of_pytest: Step = lambda world: setattr(world, "explained", 1)  # noqa: E731
    rules: dict[str, Any] = {"quarantine": [{"job_id": JOB, "node_ids": [A]}]}
    assert [one.after for one in replayed(played(of_pytest, *ONE_FAILED), rules)[0] if one.after] == ["passed"]
    added_too_late = played(of_pytest, start(1), quarantine(1, A), *ONE_FAILED[1:])
    assert added_too_late.verdicts() == {1: "failed"}
    assert replayed(added_too_late, rules)[0] == replayed(added_too_late, {"known_issues": []})[0] == []


def test_a_failure_that_a_later_report_replaced_is_not_in_quarantine() -> None:
    rules = {"quarantine": [{"job_id": JOB, "node_ids": [A]}]}
    failed, passed = report(1, "r.xml", Ran(A)), report(1, "r.xml", Ran(A, failed=False), replaces=True)
    other = report(1, "r.xml", Ran(B), replaces=True)
    for steps, verdict in (
        ([failed, passed], "passed"),
        ([failed, other], "failed"),
        ([failed, other, passed], "passed"),
    ):
        world = played(start(1, True), *steps, finish(1, 0))
        assert world.verdicts() == {1: verdict}
        assert replayed(world, rules)[0] == []

    def passed_in_an_older_release(world: World) -> None:
        ids: dict[str, Any] = {"build_id": 1, "job_id": JOB, "project_id": PROJECT, "first_result_id": 2}
        one, none = Int32s([1]), b"\0"
        row: dict[str, Any] = {
            "statuses": none,
            "attempts": b"\1",
            "finals": b"\1",
            "known_issues": none,
            "flaky": none,
        }
        columns: dict[str, Any] = {"case_ids": one, "suites": Int16s([0]), "durations_ms": one, **row}
        counts: dict[str, Any] = {"passed": 1, "failed": -1, "skipped": 0, "known_issues": 0}
        counts |= {"duration_ms": 1, "cases": 1, "blocks": 1}
        world.append([ResultsRecorded(**ids, **columns, replaced=[Replaced(0, 1, FAILED)])])
        world.append([ReportRecorded(**ids, **counts, attempt=1, path="again.xml")])

    world = played(start(1, True), failed, passed_in_an_older_release, finish(1, 0))
    assert world.verdicts() == {1: "passed"}
    assert replayed(world, rules)[0] == []


@pytest.mark.parametrize("ignored", [False, True])
def test_an_unreadable_report_counts_as_it_did(ignored: bool) -> None:
    def unreadable(world: World) -> None:
        counts: dict[str, Any] = dict.fromkeys(
            ("passed", "failed", "skipped", "known_issues", "duration_ms", "cases"), 0
        )
        ids: dict[str, Any] = {"build_id": 1, "job_id": JOB, "project_id": PROJECT, "first_result_id": 1, "blocks": 0}
        world.append([ReportRecorded(**ids, **counts, attempt=1, path="r.xml", unreadable=True)])

    world = played(start(1, True), unreadable, do(FinishExternalBuild(1, "passed", ignore_unreadable=ignored)))
    assert world.verdicts() == {1: "passed" if ignored else "failed"}
    assert replayed(world, {"quarantine": []})[0] == []


def test_rules_that_were_there_and_are_not_supposed() -> None:
    issue = CreateKnownIssue(1, PROJECT, "old", "test_bug", "signature", "s-no such host")
    world = played(do(issue), quarantine(1, A), *ONE_FAILED)
    found, _ = replayed(world, {"known_issues": [], "quarantine": []})
    assert [(one.before, one.after) for one in found] == [("test_bug", None), ("passed", "failed")]
    assert replayed(world, {"known_issues": [], "quarantine": [], "besides": True})[0] == []
    assert [type(one) for one in replayed(world, {"known_issues": []})[0]] == [TestDiffers]
    assert [type(one) for one in replayed(world, {"quarantine": []})[0]] == [VerdictDiffers]


def test_besides_the_real_rules_those_come_first() -> None:
    issue = CreateKnownIssue(1, PROJECT, "old", "test_bug", "pattern", "no such")
    world = played(do(issue), *ONE_FAILED)
    assert replayed(world, {"known_issues": [DNS], "besides": True})[0] == []
    (found,) = replayed(world, {"known_issues": [DNS]})[0]
    assert (found.before, found.after) == ("test_bug", "infra")


FAILURE = Result(1, 1, JOB, PROJECT, "failed")
PRODUCT_BUG = ClassifyResult(FAILURE, "product_bug")


@pytest.mark.parametrize("pattern", ["no such host", "another text"])
@pytest.mark.parametrize("decision", [PRODUCT_BUG, LinkKnownIssue(FAILURE, 1)], ids=["classified", "linked"])
def test_what_a_person_said_stands(decision: Command, pattern: str) -> None:
    issue = CreateKnownIssue(1, PROJECT, "new", "test_bug", "signature", "s-no such host")
    world = played(*ONE_FAILED, do(issue), search(1), do(decision))
    found, replay = replayed(world, {"known_issues": [DNS | {"pattern": pattern}]})
    assert (found, replay.counts.decided_by_people) == ([], 1)


def test_what_a_search_for_older_failures_classified_is_a_rules_work() -> None:
    issue = CreateKnownIssue(1, PROJECT, "new", "test_bug", "signature", "s-no such host")
    world = played(*ONE_FAILED, do(issue), search(1))
    for rules, expected in (
        ({"known_issues": []}, [("test_bug", None)]),
        ({"known_issues": [DNS]}, [("test_bug", "infra")]),
        ({"known_issues": [DNS | {"classification": "test_bug"}]}, []),
        ({"known_issues": [], "besides": True}, []),
        # The what-if rule would have classified the failure before the search could.
        ({"known_issues": [DNS], "besides": True}, [("test_bug", "infra")]),
    ):
        found, replay = replayed(world, rules)
        assert [(one.before, one.after) for one in found] == expected, rules
        assert replay.counts.decided_by_people == 0


def test_the_classification_of_a_model_is_not_the_work_of_rules() -> None:
    world = played(*ONE_FAILED, do(ClassifyResult(FAILURE, "flaky", set_by_kind="ai")))
    assert replayed(world, {"known_issues": []})[0] == []
    assert [(one.before, one.after) for one in replayed(world, {"known_issues": [DNS]})[0]] == [("flaky", "infra")]


def test_nothing_is_current_classifications_erased_builds() -> None:
    world = played(*ONE_FAILED)
    world.erased = {1}
    everything = {"known_issues": [DNS], "quarantine": [{"job_id": JOB, "node_ids": [A]}]}
    found, replay = replayed(world, everything)
    assert (found, replay.counts.erased, replay.counts.builds) == ([], 1, 0)


@pytest.mark.parametrize(
    ("rules", "field"),
    [
        ({}, "known_issues"),
        ({"known_issues": [DNS | {"fail_id": "x"}]}, "known_issues[0]"),
        ({"known_issues": [DNS, {"title": "x", "classification": "infra"}]}, "known_issues[1]"),
        ({"known_issues": [DNS | {"pattern": "("}]}, "known_issues[0].pattern"),
        ({"known_issues": [DNS | {"pattern": ".*"}]}, "known_issues[0].pattern"),
        ({"known_issues": [DNS | {"classification": "weather"}]}, "known_issues[0].classification"),
        ({"known_issues": [DNS | {"colour": "red"}]}, "known_issues[0].colour"),
        ({"known_issues": [DNS | {"from": "2026-05-20T10:00:00"}]}, "known_issues[0].from"),
        ({"known_issues": DNS}, "known_issues"),
        ({"quarantine": [{"job_id": 0, "node_ids": []}]}, "quarantine[0].job_id"),
        ({"quarantine": [{"job_id": 1}]}, "quarantine[0].node_ids"),
        (
            {"quarantine": [{"job_id": 1, "node_ids": [], "from": at(1).isoformat(), "until": at(1).isoformat()}]},
            "quarantine[0].until",
        ),
        ([], "rules"),
    ],
)
def test_files_that_are_wrong_say_where(rules: Any, field: str) -> None:
    with pytest.raises(Invalid) as refused:
        read_rules(json.dumps(rules).encode())
    assert [error.field for error in refused.value.errors] == [field]
    assert "Expected" not in refused.value.detail


@pytest.mark.parametrize(
    ("content", "says"),
    [(b"{", "no JSON"), (b"\xff", "no JSON"), (b" " * 2**21, "bytes"), (b"[" * 60 + b"]" * 60, "levels deep")],
)
def test_what_is_no_file_of_rules(content: bytes, says: str) -> None:
    with pytest.raises(Invalid, match=says):
        read_rules(content)


builds = st.integers(1, 2)
texts = st.sampled_from(["", "x", "y", "xy"])
failed = st.sampled_from([True, True, False])
tests = st.builds(Ran, st.sampled_from([A, B, "t.py::test_c[1]"]), failed, st.sampled_from([False, False, True]), texts)
reporting = st.builds(
    lambda build, path, rows, replaces: report(build, path, *rows, replaces=replaces),
    builds,
    st.sampled_from("pq"),
    st.lists(tests, min_size=1),
    st.booleans(),
)
happening = st.one_of(
    st.builds(start, builds, st.booleans()),
    st.builds(run, builds),
    st.builds(finish, builds, st.sampled_from([0, 1, 2, None]), st.sampled_from([None, None, None, "timeout"])),
    st.builds(lose, builds),
    st.builds(lambda build: do(AbortBuild(build, "stopped_by_user")), builds),
    st.builds(classify, st.integers(0, 5)),
)
ids = st.integers(1, 2)
classifications = st.sampled_from(["infra", "flaky"])
kinds = st.sampled_from([("pattern", "x"), ("pattern", "y"), ("signature", "s-xy"), ("fail_id", "f-y")])
entries = st.sampled_from([A, "t.py", "t.py::test_c"])
creating = st.builds(lambda i, c, k: do(CreateKnownIssue(i, PROJECT, "t", c, *k)), ids, classifications, kinds)
quarantining = st.builds(
    lambda first, entry, minutes: quarantine(first, entry, minutes=minutes),
    st.integers(1, 1_000_000),
    entries,
    st.none() | st.integers(1, 5),
)
ruling = st.one_of(
    creating,
    quarantining,
    st.builds(lambda i, c, k: do(UpdateKnownIssue(i, classification=c, match=k)), ids, classifications, kinds),
    st.builds(lambda i: do(DeleteKnownIssue(i)), ids),
    st.builds(teach, ids, st.sampled_from(["x", "y"])),
    st.builds(search, ids),
    st.builds(lambda entry: do(RemoveFromQuarantine(JOB, (entry,))), entries),
)


def in_both(steps: st.SearchStrategy[Step]) -> st.SearchStrategy[tuple[Step, Step]]:
    return steps.map(lambda step: (step, step))


def in_one(steps: st.SearchStrategy[Step]) -> st.SearchStrategy[tuple[Step | None, Step | None]]:
    return st.tuples(steps, st.booleans()).map(lambda item: (item[0], None) if item[1] else (None, item[0]))


scripts = st.builds(
    lambda first, others, ends: [(start(1), start(1)), (start(2, True), start(2, True)), *first, *others, *ends],
    st.lists(
        in_both(creating) | in_one(creating) | in_both(quarantining) | in_one(quarantining), min_size=2, max_size=4
    ),
    st.lists(
        st.one_of(*[in_both(reporting)] * 4, in_both(happening), in_both(ruling), in_one(ruling)),
        min_size=4,
        max_size=20,
    ),
    st.just([(finish(build, code), finish(build, code)) for build, code in ((1, 1), (2, 0))]),
)


def nothing(world: World) -> None:
    pass


@settings(max_examples=75, deadline=None)
@given(scripts)
def test_a_replay_tells_what_really_differs_between_two_pasts(script: list[tuple[Step | None, Step | None]]) -> None:
    """The same things happen in two worlds with other rules. Supposing in one the rules of the other tells exactly how
    the two differ; supposing its own, only what its searches for older failures found.
    """
    one, other = (played(*(pair[world] or nothing for pair in script)) for world in (0, 1))
    found, replay = replayed(one, other.as_they_were())
    assert classified(found) == changes(one, other.by_rules())
    assert replay.counts.decided_by_people == sum(source == "user" for _, source in one.today().values())
    assert {(f.build_id, f.before, f.after) for f in found if isinstance(f, VerdictDiffers)} == {
        (build_id, status, other.verdicts()[build_id])
        for build_id, status in one.verdicts().items()
        if status != other.verdicts()[build_id]
    }
    by_its_own_rules = replayed(one, one.as_they_were())[0]
    assert classified(by_its_own_rules) == changes(one, one.by_rules())
    assert all(isinstance(difference, TestDiffers) for difference in by_its_own_rules)
    assert replayed(one, WhatIfRules(known_issues=[], quarantine=[], additive=True))[0] == []


def classified(found: list[Difference]) -> set[tuple[int, str | None, str | None]]:
    return {(one.result_id, one.before, one.after) for one in found if isinstance(one, TestDiffers)}


def changes(world: World, rules: Mapping[int, str]) -> set[tuple[int, str | None, str | None]]:
    """How the classifications would change that no person has set, were they those of `rules`."""
    today = world.today()
    decided = {result_id for result_id, (_, source) in today.items() if source == "user"}
    return {
        (result_id, before, rules.get(result_id))
        for result_id in (today.keys() | rules.keys()) - decided
        if (before := today[result_id][0] if result_id in today else None) != rules.get(result_id)
    }
