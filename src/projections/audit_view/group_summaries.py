"""Summaries of events about build groups. They are not in `summaries.py`, which says what a summary is, since a file
may have 400 lines at most.
"""

from collections.abc import Callable, Mapping
from typing import Any

from domain import build_groups, divisions
from domain.core.events import Event
from domain.phrases import count


def _commit_chosen(event: build_groups.BuildGroupCommitChosen) -> str:
    commit = f" {event.commit_sha[:12]}" if event.commit_sha else ""
    return f"chose the commit{commit} of build {event.build_id} for all builds of group {event.group_id}"


def _divided(event: divisions.TestsDivided) -> str:
    tests = count(len(event.case_ids), "known test")
    return f"divided {tests} into {event.shards} shards for the builds of group {event.group_id}"


GROUP_SUMMARIES: Mapping[type[Event], Callable[[Any], str]] = {
    build_groups.BuildGroupCommitChosen: _commit_chosen,
    divisions.TestsDivided: _divided,
}
