"""Summaries of events about flaky tests. They are not in `summaries.py`, which says what a summary is, since a file may
have 400 lines at most.
"""

from collections.abc import Mapping

from domain import flakiness
from domain.core.events import Event

FLAKINESS_SUMMARIES: Mapping[type[Event], str] = {
    flakiness.TestTurnedFlaky: "noticed that test {test_case_id}{node_id: “} turned flaky in build {build_id}",
    flakiness.FlakinessEmerged: "noticed that test {test_case_id}{node_id: “} fails more often since build"
    " {first_build_id}",
    flakiness.FlakinessSettled: "noticed that test {test_case_id}{node_id: “} no longer fails more often, by build"
    " {build_id}",
}
