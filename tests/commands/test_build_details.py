"""Sentences about reports in the `detail` of a build."""

import msgspec

from commands.builds import FinishExternalBuild
from domain.builds import BuildFinished, BuildStarted
from tests.commands.test_builds import ASSIGNED, IDS, QUEUED, STARTED, finish, reported
from tests.support.spec import given


def test_patterns_of_reports_that_match_no_file_are_in_the_detail() -> None:
    missing = [msgspec.structs.replace(reported(0), path=path, missing=True) for path in ("out/*.xml", "**/TEST-*.xml")]
    (one,) = given(QUEUED, ASSIGNED, STARTED, missing[0]).when(finish())
    assert isinstance(one, BuildFinished)
    assert (one.status, one.detail) == (
        "passed",
        "No readable file of this build matches out/*.xml, which names reports.",
    )
    (both,) = given(QUEUED, ASSIGNED, STARTED, *missing).when(finish(reason="timeout", detail="it took long"))
    assert isinstance(both, BuildFinished)
    assert both.detail == (
        "it took long. No readable file of this build matches 2 patterns that name reports: out/*.xml, **/TEST-*.xml."
    )


def test_reports_without_a_test_are_in_the_detail() -> None:
    empty = msgspec.structs.replace(reported(0), cases=0)
    (one,) = given(QUEUED, ASSIGNED, STARTED, empty).when(finish())
    assert isinstance(one, BuildFinished)
    assert (one.status, one.detail) == ("passed", f"The report {empty.path} contains no test.")
    (both,) = given(QUEUED, ASSIGNED, STARTED, empty, reported(0)).when(finish())
    assert isinstance(both, BuildFinished)
    assert both.detail is None, "another report has tests"
    begun = (msgspec.structs.replace(QUEUED, external=True), BuildStarted(**IDS, node_id=None, attempt=1))
    (external,) = given(*begun, empty).when(FinishExternalBuild(1, "passed"))
    assert isinstance(external, BuildFinished)
    assert external.detail == one.detail
