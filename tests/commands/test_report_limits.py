"""Limits of what the reports of a build bring."""

import pytest

from commands import results
from commands.results import AddCases, NewCases, find_excess
from domain.core.errors import TooLarge
from domain.core.events import Event, LoadedState
from domain.results import CasesSeen
from tests.commands.test_results import QUEUED, STARTED, command, decided, report, state


def test_new_cases_are_added_at_the_version_at_which_they_were_looked_up() -> None:
    adding = AddCases(NewCases(1, 4, 20, ["a", "b"], ["s", "u"]))
    (read,) = adding.reads()
    assert isinstance(read, LoadedState)
    assert (read.stream, read.version) == ("project-1-cases", 4)
    assert list(adding.decide(None)) == [
        CasesSeen(project_id=1, first_case_id=20, node_ids=["a", "b"], suites=["s", "u"])
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


def test_a_text_counts_what_it_takes_in_memory(monkeypatch: pytest.MonkeyPatch) -> None:
    """One emoji makes Python keep four bytes for each character."""
    monkeypatch.setattr("commands.reports.reading.MAX_TEXT_BYTES", 1_000)
    read = report(*(("s", name, f"<system-out>\U0001f600{'x' * 299}</system-out>") for name in "ab"))
    assert [text.row for text in read.texts] == [0]
    assert 1_200 <= read.text_bytes < 1_300
    read = report(*(("s", name, f"<system-out>{'x' * 300}</system-out>") for name in "abcd"))
    assert [text.row for text in read.texts] == [0, 1, 2, 3]
