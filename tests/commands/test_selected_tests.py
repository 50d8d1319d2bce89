"""A build of some tests does not pass without having run them."""

from array import array
from typing import Any

import pytest

from commands.builds import FinishBuild
from commands.reports.reading import read_chunks
from commands.results import RecordReport
from domain.builds import BUILD, BuildAssigned, BuildFinished, BuildQueued, BuildStarted, ReportRecorded
from domain.core.events import Event, LoadedState
from domain.jobs import QuarantineMode
from domain.quarantine import QUARANTINE, Quarantine, TestsQuarantined
from tests.commands.simulation_world import JOB, PROJECT, World
from tests.commands.test_simulation import finish, played, replayed, run
from tests.support.spec import given

IDS: dict[str, Any] = {"build_id": 1, "job_id": 5, "project_id": 2}
INSIDES = {"passed": "", "failed": "<failure message='boom'/>", "skipped": "<skipped/>", "xfailed": "<skipped/>"}


def begun(selected: list[str] | None, mode: QuarantineMode = "run") -> list[Event]:
    return [
        BuildQueued(**IDS, test_ids=selected, quarantine_mode=mode),
        BuildAssigned(**IDS, node_id=3, attempt=1),
        BuildStarted(**IDS, node_id=3, attempt=1),
    ]


def record(
    history: list[Event], path: str, tests: dict[str, str], quarantine: Quarantine = QUARANTINE.initial
) -> list[Event]:
    """The events that a report of these tests with these outcomes adds."""
    cases = "".join(
        f'<testcase name="x"><properties><property name="nodeid" value="{name}"/>'
        f'<property name="outcome" value="{outcome}"/></properties>{INSIDES[outcome]}</testcase>'
        for name, outcome in tests.items()
    )
    read = read_chunks([f"<testsuite>{cases}</testsuite>".encode()])
    build = BUILD.at(1).fold(history)
    assert build is not None
    command = RecordReport(
        LoadedState("build-1", 0, build), 1, path, read, 1, array("q", range(1, len(read.node_ids) + 1))
    )
    return list(command.decide(build, quarantine))


def end(history: list[Event], exit_code: int = 0) -> BuildFinished:
    command = FinishBuild(build_id=1, node_id=3, attempt=1, exit_code=exit_code, reason=None, detail=None)
    (finished,) = given(*history).when(command)
    assert isinstance(finished, BuildFinished)
    return finished


def end_with(selected: list[str] | None, *reports: dict[str, str], exit_code: int = 0) -> BuildFinished:
    history = begun(selected)
    for number, tests in enumerate(reports):
        history += record(history, f"{number}.xml", tests)
    return end(history, exit_code)


@pytest.mark.parametrize(
    ("selected", "reports", "detail"),
    [
        pytest.param(["a"], [], "0 of 1 selected tests ran; without a result: a.", id="no report"),
        pytest.param(["a"], [{}], "0 of 1 selected tests ran; without a result: a.", id="an empty report"),
        pytest.param(["a"], [{"a": "skipped"}], "0 of 1 selected tests ran; without a result: a.", id="skipped"),
        pytest.param(
            ["a", "b", "c"],
            [{"a": "passed"}, {"b": "skipped", "c": "passed", "d": "passed"}],
            "2 of 3 selected tests ran; without a result: b.",
            id="some of two reports",
        ),
        pytest.param(
            list("abcdefg"),
            [],
            "0 of 7 selected tests ran; without a result: a, b, c, d, e and 2 more.",
            id="many",
        ),
        pytest.param(
            ["a.rb::[P1] b"],
            [{"a.rb::[P1] c": "passed", "a.rb::d": "passed"}],
            "0 of 1 selected tests ran; without a result: a.rb::[P1] b.",
            id="a name that begins with a bracket",
        ),
        pytest.param(
            ["a.rb::(slow) b", "a.rb::c"],
            [{"a.rb::(slow) b": "skipped", "a.rb::c": "passed"}],
            "1 of 2 selected tests ran; without a result: a.rb::(slow) b.",
            id="a name that begins with a parenthesis",
        ),
        pytest.param(
            ["a.py::b[[::1]::[2]]"],
            [{"a.py::b[[::1]::[3]]": "passed"}],
            "0 of 1 selected tests ran; without a result: a.py::b[[::1]::[2]].",
            id="a parameter that looks like a subtest",
        ),
        pytest.param(
            ["t::a[1]"], [{"t::a[2]": "passed"}], "0 of 1 selected tests ran; without a result: t::a[1].", id="v"
        ),
    ],
)
def test_a_build_fails_without_its_selected_tests(
    selected: list[str], reports: list[dict[str, str]], detail: str
) -> None:
    finished = end_with(selected, *reports)
    assert (finished.status, finished.reason, finished.detail) == ("failed", "selected_tests_not_run", detail)


@pytest.mark.parametrize(
    ("selected", "reports"),
    [
        pytest.param(None, [], id="all tests"),
        pytest.param(["a", "b"], [{"a": "passed"}, {"b": "passed"}], id="in two reports"),
        pytest.param(["a", "b"], [{"a": "passed", "b": "skipped"}, {"b": "passed"}], id="skipped in one report"),
        pytest.param(["t::a"], [{"t::a[1]": "passed"}], id="a variant of a bare id"),
        pytest.param(["a"], [{"a": "xfailed"}], id="expected to fail"),
        pytest.param(
            ["t.py::a::[part] (n=1)", "t.py::a::(n=2)", "t.py::B::a[[1]]::[part]::(n=[3])", "t.py::B::c (n=[1])"],
            [{"t.py::a": "passed", "t.py::B::a[[1]]": "passed", "t.py::B::c": "passed"}],
            id="the test of a subtest",
        ),
    ],
)
def test_a_build_passes_with_its_selected_tests(selected: list[str] | None, reports: list[dict[str, str]]) -> None:
    finished = end_with(selected, *reports)
    assert (finished.status, finished.detail) == ("passed", None)


@pytest.mark.parametrize(
    ("mode", "tests", "status"),
    [
        ("skip", {"a": "skipped"}, "passed"),
        ("skip", {}, "passed"),
        ("run", {"a": "skipped"}, "failed"),
        ("skip", None, "failed"),
    ],
)
def test_a_quarantined_test_that_the_job_skips_is_not_missed(
    mode: QuarantineMode, tests: dict[str, str] | None, status: str
) -> None:
    entry = TestsQuarantined(job_id=5, project_id=2, first_id=1, node_ids=["a"], reason="flaky")
    history = begun(["a"], mode)
    if tests is not None:
        history += record(history, "r.xml", tests, QUARANTINE.evolve(QUARANTINE.initial, entry))
    assert end(history).status == status


@pytest.mark.parametrize("selected", ["a.rb::[P1] b", "a.rb::(slow) b"])
def test_a_report_with_tests_that_were_not_selected_has_a_warning(selected: str) -> None:
    events = record(begun([selected]), "r.xml", {selected: "passed", "a.rb::[P1] c": "passed", "a.rb::d": "passed"})
    (warning,) = next(event.warnings for event in events if isinstance(event, ReportRecorded))
    assert "run only 1 of its tests, but this report has 2 others that ran" in warning


def test_other_reasons_come_first() -> None:
    assert end_with(["a", "b"], {"a": "failed"}).reason == "tests_failed"
    assert end_with(["a", "b"], {"a": "passed"}, exit_code=3).reason == "command_failed"


def test_a_report_that_does_not_say_which_tests_ran_fails_no_build() -> None:
    """Events of older releases do not."""
    counts: dict[str, Any] = {"cases": 1, "passed": 1, "failed": 0, "skipped": 0, "known_issues": 0, "duration_ms": 1}
    older = ReportRecorded(**IDS, attempt=1, path="r.xml", first_result_id=1, blocks=1, **counts)
    assert end([*begun(["a"]), older]).status == "passed"


@pytest.mark.parametrize("in_an_older_release", [False, True])
def test_a_simulation_ends_a_build_without_its_selected_tests_as_it_ended(in_an_older_release: bool) -> None:
    ids: dict[str, Any] = {"build_id": 1, "job_id": JOB, "project_id": PROJECT}

    def queued(world: World) -> None:
        world.append([BuildQueued(**ids, test_ids=["a"])])

    def passed(world: World) -> None:
        world.append([BuildFinished(**ids, status="passed", exit_code=0, node_id=1)])

    world = played(queued, run(1), passed if in_an_older_release else finish(1, 0))
    assert world.verdicts() == {1: "passed" if in_an_older_release else "failed"}
    assert replayed(world, {"quarantine": []})[0] == []
