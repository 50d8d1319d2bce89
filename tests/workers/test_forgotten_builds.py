"""Which builds count as forgotten by their agents. An agent that starts at 0 s sends a heartbeat every 10 s."""

from collections.abc import Sequence
from datetime import UTC, datetime

import pytest

from store.tables.agent_gauges import RunningBuilds
from workers.dispatch.dispatch_state import ActiveBuild, QueuedBuild, QueueKey, Requirements
from workers.dispatch.forgotten_builds import ForgottenBuilds

KEY = QueueKey(0, 0, 5, Requirements(1, None, frozenset(), frozenset(), by_admin=False))
BUILD = (1, 1)


def active(attempt: int = 1, session: str = "s1") -> ActiveBuild:
    return ActiveBuild(QueuedBuild(1, KEY, datetime(2026, 5, 20, tzinfo=UTC), attempt), 3, session)


class Looks:
    """Looks at one build, each after a heartbeat. The build begins at the first look."""

    def __init__(self) -> None:
        self._builds = ForgottenBuilds(30.0)

    def look(
        self, now: float, uptime_s: int, *named: tuple[int, int], session: str = "s1", build: ActiveBuild | None = None
    ) -> bool:
        running = {3: RunningBuilds(session, uptime_s, frozenset(named))}
        return bool(self._builds.find([build or active()], running, now))

    def look_at(self, heartbeats: Sequence[tuple[float, int]]) -> list[bool]:
        """Looks after heartbeats that name no build, each given as the time at which it came and its `uptime_s`."""
        return [self.look(now, uptime_s) for now, uptime_s in heartbeats]


def test_a_build_that_heartbeats_do_not_name_any_more_is_forgotten() -> None:
    looks = Looks()
    assert not looks.look(5, 0)
    assert not looks.look(10, 10, BUILD)
    assert looks.look_at([(20, 20), (30, 30), (39, 30), (40, 40)]) == [False, False, False, True]


def test_a_build_that_no_heartbeat_ever_named_is_forgotten() -> None:
    assert Looks().look_at([(5, 0), (10, 10), (20, 20), (30, 30), (40, 40)]) == [False, False, False, False, True]


def test_a_build_that_has_just_begun_is_not_forgotten() -> None:
    looks = Looks()
    assert looks.look_at([(9.9, 0), (10, 10)]) == [False, False], "this heartbeat is older than the message"
    assert not looks.look(20, 20, BUILD)


def test_a_build_is_not_forgotten_by_one_heartbeat_after_a_long_pause() -> None:
    """The agent may have sent it before it got the build."""
    assert Looks().look_at([(5, 0), (60, 59), (61, 59)]) == [False, False, False]


def test_a_build_that_is_being_finished_is_named() -> None:
    looks = Looks()
    assert not any(looks.look(now, int(now), BUILD) for now in range(5, 500, 10))
    assert ForgottenBuilds(0).find([], {3: RunningBuilds("s1", 600, frozenset())}, 600) == []


@pytest.mark.parametrize("old", [0, 30, 40])
def test_an_old_heartbeat_that_comes_late_does_not_count(old: int) -> None:
    looks = Looks()
    assert not looks.look(5, 0)
    assert not looks.look(40, 40, BUILD)
    assert looks.look_at([(80, old), (81, old), (90, old)]) == [False, False, False]
    assert not looks.look(91, 50, BUILD)


def test_an_old_heartbeat_that_is_repeated_until_it_is_answered_counts_once() -> None:
    looks = Looks()
    assert looks.look_at([(5, 0), (10, 10), (40, 10), (70, 10)]) == [False] * 4
    assert not looks.look(71, 71, BUILD)


def test_heartbeats_of_another_session_do_not_count() -> None:
    looks = Looks()
    for now in range(0, 100, 10):
        assert not looks.look(now, now, session="s0")


def test_each_attempt_begins_anew() -> None:
    looks = Looks()
    looks.look_at([(5, 0), (10, 10), (20, 20), (30, 30)])
    assert not looks.look(40, 40, build=active(attempt=2))
    assert not looks.look(50, 50, BUILD, build=active(attempt=2)), "it names another attempt"
    assert not looks.look(60, 60, build=active(attempt=2))
    assert looks.look(70, 70, build=active(attempt=2))


def test_an_agent_without_heartbeats_forgets_nothing() -> None:
    builds = ForgottenBuilds(0)
    assert [builds.find([active()], {}, now) for now in (0.0, 100.0)] == [[], []]
