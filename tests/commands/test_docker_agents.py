"""Decisions about Docker agents."""

from datetime import UTC, datetime, timedelta
from typing import Any

import hypothesis
import pytest
from hypothesis import strategies as st

from commands.docker_agents import (
    DestroyDockerAgent,
    ObserveContainer,
    RecordDockerAgentDestroyed,
    RecordDockerFailure,
    RegisterDockerAgent,
    SpawnDockerAgent,
    StartDockerAgent,
    StopDockerAgent,
)
from domain import docker_agents, nodes
from domain.claims import ClaimTaken
from domain.core.errors import Conflict, Invalid, NotFound, Unauthenticated
from domain.core.events import Event
from domain.docker_agents import (
    DOCKER_AGENT,
    ContainerState,
    DockerAgentDestroyed,
    DockerAgentDestroyRequested,
    DockerAgentFailed,
    DockerAgentRegistered,
    DockerAgentRequested,
    DockerAgentStarted,
    DockerAgentStartRequested,
    DockerAgentStopped,
    DockerAgentStopRequested,
    DockerPolicy,
)
from domain.nodes import NO_TOKEN, NodeConnected, NodeDeleted, NodeRegistered, NodeTokenRotated, NodeWentOffline
from domain.pools import PoolCreated, PoolDeleted
from tests.support.spec import folds, given, is_decided_once
from tests.support.strategies import commands, histories

ID = "da-1"
NOW = datetime(2026, 5, 20, 10, tzinfo=UTC)
UNTIL = NOW + timedelta(minutes=10)
POOL = PoolCreated(pool_id=3, project_id=1, title="docker", claim="c")
FIELDS: dict[str, Any] = {
    "agent_id": ID,
    "host": "build-host-01",
    "image": "testhide/agent:3.14",
    "registration_id": "r1",
    "registration_until": UNTIL,
    "pool_id": 3,
    "memory_mb": 512,
    "cpus": 1.5,
    "sealed_env": b"sealed",
}
REQUESTED = DockerAgentRequested(**FIELDS)
STARTED = DockerAgentStarted(agent_id=ID, container_id="c1", run="t1")
STOPPED = DockerAgentStopped(agent_id=ID, container_id="c1", run="t1", exit_code=0)
START_REQUESTED = DockerAgentStartRequested(agent_id=ID, registration_id="r2", registration_until=UNTIL)
STOP_REQUESTED = DockerAgentStopRequested(agent_id=ID)
DESTROY_REQUESTED = DockerAgentDestroyRequested(agent_id=ID)
DESTROYED = DockerAgentDestroyed(agent_id=ID)
FAILED = DockerAgentFailed(agent_id=ID, error="the container ended with exit code 2", container_id="c1", run="t1")
REGISTERED = DockerAgentRegistered(agent_id=ID, node_id=7, token_hash=b"h")
NODE = NodeRegistered(node_id=7, title=ID, claim="n", token_hash=b"h", pool_id=3)
CONNECTED = NodeConnected(node_id=7, session="s", version="1", platform="linux", hostname="c1", cpu_cores=2, ram_gb=1.0)
OFFLINE = NodeWentOffline(node_id=7, session="s", reason="its container has ended")
REVOKED = NodeTokenRotated(node_id=7, token_hash=NO_TOKEN)
RUNNING = ContainerState("c1", running=True, run="t1")
ENDED = ContainerState("c1", running=False, run="t1", exit_code=2)
START, STOP, DESTROY = StartDockerAgent(ID, "r2", UNTIL), StopDockerAgent(ID), DestroyDockerAgent(ID)


def test_spawn() -> None:
    given(POOL).when(SpawnDockerAgent(**FIELDS)).then(REQUESTED)
    given(POOL, REQUESTED).when(SpawnDockerAgent(**FIELDS)).then_nothing()
    with pytest.raises(Invalid, match="no node pool 3"):
        given(POOL, PoolDeleted(pool_id=3, project_id=1)).when(SpawnDockerAgent(**FIELDS))


def test_start() -> None:
    given(REQUESTED, STARTED, STOPPED).when(START).then(START_REQUESTED)
    given(REQUESTED, STARTED, FAILED).when(START).then(START_REQUESTED)
    for history in ([], [STARTED], [STARTED, STOPPED, START_REQUESTED]):
        given(REQUESTED, *history).when(START).then_nothing()
    with pytest.raises(Conflict, match="being stopped"):
        given(REQUESTED, STARTED, STOP_REQUESTED).when(START)


def test_stop() -> None:
    given(REQUESTED, STARTED).when(STOP).then(STOP_REQUESTED)
    given(REQUESTED, STARTED, STOP_REQUESTED).when(STOP).then_nothing()
    given(REQUESTED, STARTED, STOP_REQUESTED, STOPPED).when(STOP).then_nothing()
    with pytest.raises(Conflict, match="being started"):
        given(REQUESTED).when(STOP)


def test_destroy() -> None:
    given(REQUESTED).when(DESTROY).then(DESTROY_REQUESTED)
    given(REQUESTED, STARTED, STOP_REQUESTED).when(DESTROY).then(DESTROY_REQUESTED)
    given(REQUESTED, DESTROY_REQUESTED).when(DESTROY).then_nothing()
    given(REQUESTED, DESTROY_REQUESTED).when(RecordDockerAgentDestroyed(ID)).then(DESTROYED)
    given(REQUESTED, DESTROY_REQUESTED, DESTROYED).when(DESTROY).then_nothing()
    given(REQUESTED, STARTED).when(RecordDockerAgentDestroyed(ID)).then_nothing()
    with pytest.raises(NotFound, match="no Docker agent da-1"):
        given().when(DESTROY)
    for command in (START, STOP):
        with pytest.raises(Conflict, match="being destroyed"):
            given(REQUESTED, DESTROY_REQUESTED).when(command)
        with pytest.raises(NotFound):
            given(REQUESTED, DESTROY_REQUESTED, DESTROYED).when(command)


def test_a_running_container_is_recorded_once() -> None:
    given(REQUESTED).when(ObserveContainer(ID, RUNNING)).then(STARTED)
    given(REQUESTED, STARTED).when(ObserveContainer(ID, RUNNING)).then_nothing()
    created = ContainerState("c1", running=False)
    given(REQUESTED).when(ObserveContainer(ID, created)).then_nothing()
    given(REQUESTED).when(ObserveContainer(ID, None)).then_nothing()


def test_an_old_observation_does_not_bring_a_container_back() -> None:
    given(REQUESTED, STARTED, STOPPED).when(ObserveContainer(ID, RUNNING)).then_nothing()
    again = ContainerState("c1", running=True, run="t2")
    started_again = DockerAgentStarted(agent_id=ID, container_id="c1", run="t2")
    given(REQUESTED, STARTED, STOPPED, START_REQUESTED).when(ObserveContainer(ID, again)).then(started_again)
    given(REQUESTED, STARTED, STOPPED, START_REQUESTED).when(ObserveContainer(ID, ENDED)).then_nothing()


def test_an_end_takes_the_node_offline() -> None:
    connected = (REQUESTED, STARTED, NODE, REGISTERED, CONNECTED)
    given(*connected).when(ObserveContainer(ID, ENDED)).then(FAILED, REVOKED, OFFLINE)
    given(*connected, FAILED, REVOKED, OFFLINE).when(ObserveContainer(ID, ENDED)).then_nothing()
    asked = DockerAgentStopped(agent_id=ID, container_id="c1", run="t1", exit_code=2)
    given(*connected, STOP_REQUESTED).when(ObserveContainer(ID, ENDED)).then(asked, REVOKED, OFFLINE)
    orderly = ContainerState("c1", running=False, run="t1")
    given(*connected).when(ObserveContainer(ID, orderly)).then(STOPPED, REVOKED, OFFLINE)
    lost = DockerAgentFailed(agent_id=ID, error="Docker host build-host-01 has no such container any more")
    given(*connected).when(ObserveContainer(ID, None)).then(lost, OFFLINE)
    given(*connected, lost, OFFLINE).when(ObserveContainer(ID, None)).then_nothing()
    given(*connected, FAILED).when(ObserveContainer(ID, None)).then(lost, OFFLINE)
    given(REQUESTED, DockerAgentFailed(agent_id=ID, error="no image")).when(ObserveContainer(ID, None)).then_nothing()


@pytest.mark.parametrize(
    ("container", "error"),
    [
        (ContainerState("c1", False, "t1", 137), "exit code 137 (killed)"),
        (ContainerState("c1", False, "t1", 137, True), "reached its memory limit"),
        (ContainerState("c1", False, error="no such file: python3"), "no such file: python3"),
    ],
)
def test_the_error_says_how_the_container_ended(container: ContainerState, error: str) -> None:
    (failed,) = given(REQUESTED).when(ObserveContainer(ID, container))
    assert isinstance(failed, DockerAgentFailed)
    assert error in failed.error


def test_a_failure_is_recorded_once_while_it_repeats() -> None:
    away = DockerAgentFailed(agent_id=ID, error="away", repeats=True)
    given(REQUESTED).when(RecordDockerFailure(ID, "spawn", "away", True)).then(away)
    given(REQUESTED, away).when(RecordDockerFailure(ID, "spawn", "away", True)).then_nothing()
    gone = DockerAgentFailed(agent_id=ID, error="away")
    given(REQUESTED, away).when(RecordDockerFailure(ID, "spawn", "away", False)).then(gone)
    given(REQUESTED, away, gone).when(RecordDockerFailure(ID, "spawn", "away", False)).then_nothing()
    given(REQUESTED, away).when(ObserveContainer(ID, RUNNING)).then(STARTED)


def test_only_an_operation_that_is_given_up_ends_in_an_error() -> None:
    away = DockerAgentFailed(agent_id=ID, error="away", repeats=True)
    for history, status in (((), "starting"), ((STARTED, STOP_REQUESTED), "running")):
        agent = DOCKER_AGENT.at(ID).fold([REQUESTED, *history, away])
        assert agent is not None
        assert (agent.status, agent.error) == (status, "away")


REGISTER = RegisterDockerAgent(ID, "r1", b"h", 7, "n", NOW)


def test_a_container_registers_its_node_once() -> None:
    taken = ClaimTaken(claim="n", owner="node-7")
    given(POOL, REQUESTED).when(REGISTER).then(taken, NODE, REGISTERED)
    registered = (POOL, REQUESTED, taken, NODE, REGISTERED)
    given(*registered).when(REGISTER).then_nothing()
    with pytest.raises(Unauthenticated, match="works once"):
        given(*registered).when(RegisterDockerAgent(ID, "r1", b"other", 8, "n", NOW))


def test_a_restarted_container_gives_its_node_a_new_token() -> None:
    history = (POOL, REQUESTED, NODE, REGISTERED, CONNECTED, STARTED, STOPPED, START_REQUESTED)
    again = RegisterDockerAgent(ID, "r2", b"new", 9, "n", NOW)
    given(*history).when(again).then(
        NodeTokenRotated(node_id=7, token_hash=b"new"),
        NodeWentOffline(node_id=7, session="s", reason="its container was restarted"),
        DockerAgentRegistered(agent_id=ID, node_id=7, token_hash=b"new"),
    )
    with pytest.raises(Unauthenticated):
        given(*history).when(REGISTER)
    deleted = (*history, NodeDeleted(node_id=7))
    anew = given(*deleted).when(again)[-1]
    assert anew == DockerAgentRegistered(agent_id=ID, node_id=9, token_hash=b"new")


def test_the_token_of_an_agent_ends_with_its_container() -> None:
    """A build may have read it in the agent's memory."""
    registered = (POOL, REQUESTED, STARTED, NODE, REGISTERED)
    given(*registered).when(ObserveContainer(ID, ENDED)).then(FAILED, REVOKED)
    given(*registered, NodeDeleted(node_id=7)).when(ObserveContainer(ID, ENDED)).then(FAILED)


def test_a_registration_token_ends() -> None:
    refused: list[tuple[list[Event], RegisterDockerAgent]] = [
        ([REQUESTED, STARTED, STOPPED], REGISTER),
        ([REQUESTED, STARTED, FAILED], REGISTER),
        ([], REGISTER),
        ([REQUESTED, DESTROY_REQUESTED], REGISTER),
        ([REQUESTED, DESTROY_REQUESTED, DESTROYED], REGISTER),
        ([REQUESTED], RegisterDockerAgent(ID, "r0", b"h", 7, "n", NOW)),
        ([REQUESTED], RegisterDockerAgent(ID, "r1", b"h", 7, "n", UNTIL + timedelta(seconds=1))),
    ]
    for history, command in refused:
        with pytest.raises(Unauthenticated):
            given(POOL, *history).when(command)


def test_the_operator_chooses_hosts_and_images() -> None:
    policy = DockerPolicy(frozenset({"a"}), ["testhide/agent:*", "registry.example.com/**"])
    policy.check("a", "testhide/agent:3.14")
    policy.check("a", "registry.example.com/team/image@sha256:0")
    for host, image, field in (("b", "testhide/agent:1", "host"), ("a", "evil/testhide/agent:1", "image")):
        with pytest.raises(Invalid) as refused:
            policy.check(host, image)
        assert [error.field for error in refused.value.errors] == [field]


@pytest.mark.parametrize(
    ("globs", "image", "is_allowed"),
    [
        # With a digest, Docker ignores the tag.
        ("testhide/agent:3.*", "testhide/agent:3.14@sha256:0", False),
        ("testhide/agent:*", "testhide/agent:3.14@sha256:0", False),
        ("testhide/agent:*", "testhide/agent@sha256:0", False),
        ("testhide/agent@sha256:0", "testhide/agent@sha256:0", True),
        ("testhide/agent@sha256:0", "testhide/agent:3.14@sha256:0", True),
        ("testhide/agent:3.14@sha256:0", "testhide/agent:3.14@sha256:0", True),
        ("testhide/agent:3.14@sha256:0", "testhide/agent:3.14@sha256:1", False),
        ("testhide/*", "testhide/agent:3.14@sha256:0", True),
        ("host:5000/agent:3.*", "host:5000/agent:3.1@sha256:0", False),
        ("host:5000/**", "host:5000/agent:3.1@sha256:0", True),
        ("host:5000/agent:3.*", "host:5001/agent:3.1", False),
        ("agent:*", "agent:5000/evil", False),
    ],
)
def test_a_digest_gets_past_no_glob_for_tags(globs: str, image: str, is_allowed: bool) -> None:
    policy = DockerPolicy(frozenset({"a"}), [globs])
    if is_allowed:
        policy.check("a", image)
    else:
        with pytest.raises(Invalid):
            policy.check("a", image)


@hypothesis.given(histories(*docker_agents.EVENTS))
def test_states_fold(history: list[Event]) -> None:
    folds(DOCKER_AGENT, history)


DECIDED = (StartDockerAgent, StopDockerAgent, DestroyDockerAgent, RecordDockerFailure, ObserveContainer)


@pytest.mark.parametrize("kind", DECIDED)
@hypothesis.given(data=st.data())
def test_decided_once(kind: type[Any], data: st.DataObject) -> None:
    history = data.draw(histories(*docker_agents.EVENTS, *nodes.EVENTS))
    is_decided_once(data.draw(commands(kind)), history)
