"""Limits of what the reports of a build bring."""

import pytest

from commands import results
from commands.results import NewCases, find_excess
from domain.core.errors import TooLarge
from domain.core.events import Event
from domain.results import CasesSeen
from tests.commands.test_results import QUEUED, STARTED, command, decided, report, state


def test_many_new_cases_are_several_events(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "CASES_PER_EVENT", 2)
    read = report(*(("s", name, "") for name in "abc"))
    new = NewCases(1, 4, 20, read.node_ids, ["s", "s", "u"])
    seen = [event for event in decided(command(read, new_cases=new), QUEUED, STARTED) if isinstance(event, CasesSeen)]
    assert seen == [
        CasesSeen(project_id=1, first_case_id=20, node_ids=read.node_ids[:2], suites=["s", "s"]),
        CasesSeen(project_id=1, first_case_id=22, node_ids=read.node_ids[2:], suites=["u"]),
    ]


def test_the_reports_and_results_of_a_build_are_limited(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(results, "MAX_REPORTS", 2)
    monkeypatch.setattr(results, "MAX_BUILD_RESULTS", 3)
    history: list[Event] = [QUEUED, STARTED]
    for number, rows in enumerate((2, 1, 0)):
        if number == 1:
            assert "more than 3 results" in find_excess(state(*history), 2)
            assert find_excess(state(*history), 1) == ""
        if number == 2:
            assert "2 reports before it" in find_excess(state(*history), 0)
        read = report(*(("s", str(row), "") for row in range(rows)))
        history += decided(command(read, path=f"{number}.xml"), *history)
    with pytest.raises(TooLarge, match="takes no more"):
        find_excess(state(*history), 0)
