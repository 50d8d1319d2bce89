"""Docker agents as rows."""

from datetime import UTC, datetime

import hypothesis

from domain import docker_agents
from domain.core.events import Event
from domain.docker_agents import (
    DockerAgentDestroyed,
    DockerAgentDestroyRequested,
    DockerAgentFailed,
    DockerAgentRegistered,
    DockerAgentRequested,
    DockerAgentStarted,
    DockerAgentStartRequested,
    DockerAgentStopped,
    DockerAgentStopRequested,
)
from projections.docker_agents import PROJECTION, DockerAgentRow
from tests.support.spec import given
from tests.support.strategies import histories

ID = "da-1"
NOW, LATER = datetime(2026, 5, 20, 10, tzinfo=UTC), datetime(2026, 5, 20, 11, tzinfo=UTC)
REQUESTED = DockerAgentRequested(
    at=NOW, agent_id=ID, host="h", image="i:1", registration_id="r", registration_until=LATER, pool_id=3, cpus=2.0
)
STARTED = DockerAgentStarted(at=LATER, agent_id=ID, container_id="c", run="t1")


def row(*events: Event) -> DockerAgentRow:
    return given(REQUESTED, *events).when(PROJECTION).one(DockerAgentRow)


def test_an_agent_is_spawned() -> None:
    assert row() == DockerAgentRow(ID, 1, "h", "i:1", 3, None, 2.0, NOW, registration_until=LATER)
    running = row(STARTED, DockerAgentRegistered(agent_id=ID, node_id=7))
    assert (running.status, running.pending, running.started_at, running.node_id) == ("running", None, LATER, 7)


def test_an_operation_is_pending_until_its_outcome() -> None:
    asked = DockerAgentStopRequested(agent_id=ID)
    away = DockerAgentFailed(agent_id=ID, error="away", repeats=True)
    assert (row(STARTED, asked).status, row(STARTED, asked).pending) == ("running", "stop")
    trying = row(STARTED, asked, away)
    assert (trying.status, trying.pending, trying.error) == ("running", "stop", "away")
    stopped = row(STARTED, asked, away, DockerAgentStopped(agent_id=ID, container_id="c", run="t1", exit_code=0))
    assert (stopped.status, stopped.pending, stopped.error) == ("stopped", None, None)


def test_an_agent_is_starting_while_its_spawn_is_tried_again() -> None:
    away = DockerAgentFailed(agent_id=ID, error="away", repeats=True)
    trying = row(away)
    assert (trying.status, trying.pending, trying.error) == ("starting", "spawn", "away")
    given_up = row(away, DockerAgentFailed(agent_id=ID, error="away"))
    assert (given_up.status, given_up.pending, given_up.error) == ("error", None, "away")


def test_a_registration_is_awaited_after_each_start() -> None:
    registered = DockerAgentRegistered(agent_id=ID, node_id=7)
    again = DockerAgentStartRequested(agent_id=ID, registration_id="r2", registration_until=LATER)
    stopped = DockerAgentStopped(agent_id=ID, container_id="c", run="t1", exit_code=0)
    assert row(STARTED, registered).registration_until is None
    assert row(STARTED, registered, stopped, again).registration_until == LATER


def test_an_agent_is_destroyed() -> None:
    asked = DockerAgentDestroyRequested(agent_id=ID)
    ended = DockerAgentFailed(agent_id=ID, error="killed", container_id="c", run="t1")
    assert row(STARTED, asked, ended).pending == "destroy"
    assert given(REQUESTED, asked, DockerAgentDestroyed(agent_id=ID)).when(PROJECTION).all(DockerAgentRow) == []


@hypothesis.given(histories(*docker_agents.EVENTS))
def test_no_history_fails(history: list[Event]) -> None:
    given(*history).when(PROJECTION)
