"""Divisions: which shard of a build group runs which known tests.

A division is made once, when an agent is about to run the first build of the group. So all builds of the group follow
the same division, whatever other builds record meanwhile. The parts that are divided are *units*: a unit is a test with
all its parameters and subtests. These stay together, because the ids of some parameters differ from one process to the
next. Each unit is named by one of its test cases, so the event has no texts.
"""

import re
from collections.abc import Iterable
from typing import ClassVar

import msgspec

from domain.core.events import Category, Event
from domain.splitting import MIN_MS, split

MAX_UNITS = 50_000
"""Largest number of units in a division. The units that take longest are chosen. Agents treat all other units like
unknown tests.
"""
_UNIT_ENDS = re.compile(r"::(?=[\[(])|\[")


class TestsDivided(Event, frozen=True):
    """The known tests of a job were divided into the shards of a build group."""

    __test__: ClassVar[bool] = False
    name: ClassVar[str] = "build_group.tests_divided"
    group_id: int
    job_id: int
    project_id: int
    shards: int
    case_ids: list[int] = []
    """Ids of test cases, one for each unit."""
    shard_of: list[int] = []
    """Number of each unit's shard, from 1."""

    @property
    def stream(self) -> str:
        return f"division-{self.group_id}"


class Division(msgspec.Struct, frozen=True):
    """Shard of each known unit, by the id of one of its test cases. `shards` is 0 until the division is made."""

    shards: int = 0
    shard_of: dict[int, int] = {}


def evolve(state: Division, event: Event) -> Division:
    if not isinstance(event, TestsDivided):
        return state
    return Division(event.shards, dict(zip(event.case_ids, event.shard_of, strict=False)))


def find_unit(node_id: str) -> str:
    """Returns the node id without parameters and subtests. Brackets in the name of a folder stay."""
    file, separator, test = node_id.partition("::")
    end = _UNIT_ENDS.search(separator + test)
    return node_id if end is None else file + (separator + test)[: end.start()]


def divide_cases(cases: Iterable[tuple[int, str, float]], shards: int) -> dict[int, int]:
    """Returns a mapping from units to numbers of shards, from 1. The key of a unit is the least id of its test cases.
    `cases` are the known test cases: id, node id and duration in milliseconds.
    """
    first_ids: dict[str, int] = {}
    durations_ms: dict[str, float] = {}
    for case_id, node_id, duration_ms in cases:
        unit = find_unit(node_id)
        first_ids[unit] = min(case_id, first_ids.get(unit, case_id))
        durations_ms[unit] = durations_ms.get(unit, 0.0) + duration_ms
    longest = sorted(durations_ms, key=lambda unit: (-durations_ms[unit], unit))[:MAX_UNITS]
    divided = split({unit: max(MIN_MS, durations_ms[unit]) for unit in longest}, shards)
    return {first_ids[unit]: number for number, units in enumerate(divided, 1) for unit in units}


DIVISION = Category("division", Division(), evolve)
EVENTS = (TestsDivided,)
