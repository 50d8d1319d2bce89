"""One dispatcher, or two, inside the test's own process, so that their time limits can be short."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest

from commands.build_assignment import AcknowledgeBuild, TakeLeadership
from commands.builds import StartBuild
from commands.handler import CommandContext, Handler
from commands.jobs import ConfigureJob, CreateJob, DeleteJob
from commands.nodes import ConnectNode, DeleteNode, RegisterNode
from commands.projects import CreateProject
from domain.builds import BUILD, Assigned, BuildRequeued, Finished, Queued, Running
from domain.dispatch import LeadershipTaken
from domain.nodes import NODE
from store.postgres.cancellation import cancel_and_wait
from store.postgres.notifications import EVENTS, POLLS, Listener
from store.tables.agent_gauges import AgentGauges
from store.tables.build_logs import BuildLogs, Line
from store.tables.waiting_reasons import WaitingReasons
from testhide.processes import Core
from workers.dispatch.dispatcher import Dispatcher

NOW = datetime(2026, 5, 20, tzinfo=UTC)
ANN = CommandContext("user:1")


class Yard:
    """A log with a project, a job and a node whose agent is connected, and a dispatcher over it."""

    def __init__(self, parts: Core) -> None:
        self.parts = parts
        self.handler = Handler(parts.log, lambda: NOW)
        self.gauges = AgentGauges(parts.pool)
        self.logs = BuildLogs(parts.pool)

    async def set_up(self) -> None:
        for command in (
            CreateProject(1, "Web", 1, (("web", "slug-1"),), b""),
            CreateJob(5, 1, "Smoke", max_parallel=9),
            ConfigureJob(5, "pytest"),
            RegisterNode(3, "agent", "node-3", b"hash", None, max_parallel=9),
        ):
            await self.handler.execute(command, ANN)
        await self.connect("first")

    async def connect(self, session: str, node_id: int = 3) -> None:
        command = ConnectNode(node_id, session, "1", "linux", "h", 8, 16.0, replaces_dead=True)
        await self.handler.execute(command, ANN)
        await self.gauges.record_contact(node_id, session)

    async def start(self, build_id: int) -> None:
        await self.handler.execute(StartBuild(build_id, 5), ANN)

    @contextlib.asynccontextmanager
    async def dispatching(self, **retries: Any) -> AsyncIterator[None]:
        listener = Listener(self.parts.conninfo, EVENTS, POLLS)
        await listener.start()
        dispatcher = Dispatcher(
            self.parts.conninfo,
            self.parts.log,
            self.handler,
            listener,
            self.gauges,
            self.logs,
            WaitingReasons(self.parts.pool),
            self.parts.ids,
            **retries,
        )
        running = asyncio.create_task(dispatcher.run())
        yield
        await cancel_and_wait(running)
        await listener.close()

    async def until(self, build_id: int, holds: Callable[[Any], bool]) -> Any:
        """The build's state once it holds; the log is looked at again with each of its notifications."""
        return await self.seen(lambda: self.parts.log.load_state(BUILD.at(build_id)), holds)

    async def seen(self, look: Callable[[], Any], holds: Callable[[Any], bool]) -> Any:
        async with await psycopg.AsyncConnection.connect(self.parts.conninfo, autocommit=True) as listening:
            await listening.execute("LISTEN stored_events")
            async with asyncio.timeout(15):
                while not holds(state := await look()):
                    async for _ in listening.notifies(timeout=1, stop_after=1):
                        pass
        return state


@pytest.fixture
async def yard(parts: Core) -> Yard:
    yard = Yard(parts)
    await yard.set_up()
    return yard


def is_assigned(state: Any) -> bool:
    return isinstance(state, Assigned)


async def test_an_assignment_is_taken_back_after_a_while(yard: Yard) -> None:
    await yard.start(1)
    async with yard.dispatching(acknowledge_timeout_s=0.2):
        await yard.gauges.record_poll(3, "first", 1)
        await yard.until(1, is_assigned)
        state = await yard.until(1, lambda state: isinstance(state, Queued) and state.attempt == 1)
    assert state.attempt == 1


async def test_a_poll_that_ends_late_says_nothing_of_the_next_session(yard: Yard) -> None:
    ended = await yard.gauges.record_poll(3, "first", 1)
    await yard.connect("second")
    await yard.gauges.record_poll(3, "second", 2)
    await yard.gauges.end_poll(3, "first", ended)
    gauge = await yard.gauges.fetch(3)
    assert gauge is not None
    assert (gauge.session, gauge.polling, gauge.free) == ("second", True, 2)


async def test_a_poll_that_ends_late_says_nothing_of_the_next_poll_of_its_session(yard: Yard) -> None:
    """The agent may have gone from one API process to another, and the first one sees late that it is gone."""
    other_process = AgentGauges(yard.parts.pool)
    earlier = await yard.gauges.record_poll(3, "first", 1)
    later = await other_process.record_poll(3, "first", 2)
    await yard.gauges.end_poll(3, "first", earlier)
    gauge = await yard.gauges.fetch(3)
    assert gauge is not None
    assert (gauge.polling, gauge.free) == (True, 2)
    await yard.gauges.record_heartbeat(3, "first", 1, 2, 3, 4)
    await other_process.end_poll(3, "first", later)
    gauge = await yard.gauges.fetch(3)
    assert gauge is not None
    assert not gauge.polling


async def test_a_silent_nodes_builds_are_lost(yard: Yard) -> None:
    await yard.start(1)
    async with yard.dispatching(offline_after_s=1.0):
        await yard.gauges.record_poll(3, "first", 1)
        await yard.until(1, is_assigned)
        await yard.logs.append(5, 1, 1, 0, [Line(0, "checking out")])
        node = await yard.seen(lambda: yard.parts.log.load_state(NODE.at(3)), lambda node: node.session is None)
        assert node is not None
        await yard.until(1, lambda state: isinstance(state, Queued) and state.attempt == 1)


async def test_a_build_that_its_agent_has_forgotten_is_lost(yard: Yard) -> None:
    async def beat(uptime_s: int, *running: tuple[int, int]) -> None:
        await yard.gauges.record_heartbeat(3, "first", 1, 2, 3, uptime_s, running)

    for number in (1, 2):
        await yard.start(number)
    async with yard.dispatching(forgotten_after_s=0):
        await yard.gauges.record_poll(3, "first", 2)
        for number in (1, 2):
            await yard.until(number, is_assigned)
            await yard.handler.execute(AcknowledgeBuild(number, 3, 1, None), ANN)
        uptime_s, is_lost = 0, False
        async with asyncio.timeout(15):
            while not is_lost:
                uptime_s += 10
                await beat(uptime_s, (2, 1))
                state = await yard.parts.log.load_state(BUILD.at(1))
                is_lost = isinstance(state, Queued) and state.attempt == 1
    requeued = (await yard.parts.log.load(["build-1"]))["build-1"][-1].event
    assert isinstance(requeued, BuildRequeued)
    assert (requeued.reason, requeued.attempt) == ("agent_lost", 1)
    assert requeued.detail == "the agent of node 3 did not run it any more and had not reported its end"
    other = await yard.parts.log.load_state(BUILD.at(2))
    assert isinstance(other, Running)


async def test_a_node_that_has_just_connected_is_not_silent(yard: Yard) -> None:
    """Its first sign of life may come after the event of its connection, and the dispatcher look in between."""
    await yard.handler.execute(RegisterNode(4, "late", "node-4", b"hash 4", None), ANN)

    def gone(node: Any) -> bool:
        return node.session is None

    async with yard.dispatching(offline_after_s=2.0):
        await yard.seen(lambda: yard.parts.log.load_state(NODE.at(3)), gone)  # so it has led for longer than that
        connected = time.monotonic()
        await yard.handler.execute(ConnectNode(4, "late", "1", "linux", "h", 8, 16.0, replaces_dead=True), ANN)
        await yard.seen(lambda: yard.parts.log.load_state(NODE.at(4)), gone)
        assert time.monotonic() - connected >= 2.0


async def _assigned_and_left_alone(yard: Yard) -> None:
    """A build that was given out before its dispatcher died."""
    await yard.start(1)
    async with yard.dispatching():
        await yard.gauges.record_poll(3, "first", 1)
        await yard.until(1, is_assigned)
        await yard.logs.append(5, 1, 1, 0, [Line(0, "checking out")])


async def test_an_agent_that_began_anew_has_lost_its_builds(yard: Yard) -> None:
    await _assigned_and_left_alone(yard)
    async with yard.dispatching():
        await yard.connect("second")
        await yard.until(1, lambda state: isinstance(state, Queued))


@pytest.mark.parametrize(("event", "reason"), [(DeleteJob(5), "job_deleted"), (DeleteNode(3), "node_removed")])
async def test_what_is_deleted_while_nobody_leads_is_seen_by_the_next_leader(
    yard: Yard, event: Any, reason: str
) -> None:
    await _assigned_and_left_alone(yard)
    await yard.start(2)
    await yard.handler.execute(event, ANN)
    async with yard.dispatching():
        state = await yard.until(1, lambda state: isinstance(state, Finished))
        history = (await yard.parts.log.load(["build-1"]))["build-1"]
        assert (getattr(history[-1].event, "reason", ""), state.status) == (reason, "aborted")
        assert getattr(history[-1].event, "log_lines", 0) == 1
        if reason == "job_deleted":
            await yard.until(2, lambda state: isinstance(state, Finished))


async def test_an_agent_that_began_anew_while_nobody_leads_has_lost_its_builds(yard: Yard) -> None:
    await _assigned_and_left_alone(yard)
    await yard.connect("second")
    async with yard.dispatching():
        await yard.until(1, lambda state: isinstance(state, Queued))


async def test_polls_that_were_missed_are_found_again(yard: Yard) -> None:
    await yard.start(1)
    async with yard.dispatching():
        await yard.start(2)
        async with await psycopg.AsyncConnection.connect(yard.parts.conninfo, autocommit=True) as connection:
            await connection.execute(
                "INSERT INTO agent_gauges (node_id, session, seen_at, free, polling)"
                " VALUES (3, 'first', now(), 2, true)"
                " ON CONFLICT (node_id) DO UPDATE SET free = 2, polling = true"
            )
            await connection.execute(
                "SELECT pg_terminate_backend(pid) FROM pg_stat_activity"
                " WHERE datname = current_database() AND query LIKE 'LISTEN%' AND pid <> pg_backend_pid()"
            )
        await yard.until(1, is_assigned)
        await yard.until(2, is_assigned)


async def test_a_poll_that_a_new_leader_has_read_does_not_count_again_when_its_notification_comes(yard: Yard) -> None:
    async with await psycopg.AsyncConnection.connect(yard.parts.conninfo, autocommit=True) as database:
        await database.execute(f"LISTEN {POLLS}")
        await yard.gauges.record_poll(3, "first", 1)
        (notification,) = [found async for found in database.notifies(timeout=15, stop_after=1)]
        await yard.start(1)
        async with yard.dispatching():
            await yard.until(1, is_assigned)
            await yard.start(2)
            await database.execute("SELECT pg_notify(%s, %s)", (POLLS, notification.payload))
            await yard.handler.execute(RegisterNode(4, "other", "node-4", b"hash 4", None), ANN)
            await yard.connect("other", node_id=4)
            await yard.gauges.record_poll(4, "other", 1)
            state = await yard.until(2, is_assigned)
    assert state.node_id == 4


async def test_an_overtaken_leader_assigns_nothing_more(yard: Yard) -> None:
    """Two dispatchers that both believe to lead: the fence lets one of them assign, and each build once."""
    async with yard.dispatching(), yard.dispatching():
        await yard.gauges.record_poll(3, "first", 5)
        for number in range(1, 6):
            await yard.start(number)
        for number in range(1, 6):
            await yard.until(number, is_assigned)
    events = await yard.parts.log.read(0, 1000, ["build.assigned"])
    assert sorted(recorded.stream for recorded in events) == [f"build-{number}" for number in range(1, 6)]


async def test_an_overtaken_leader_leads_anew_before_it_assigns_again(yard: Yard) -> None:
    async with yard.dispatching():
        await yard.start(1)
        await yard.gauges.record_poll(3, "first", 2)
        await yard.until(1, is_assigned)
        await yard.handler.execute(TakeLeadership("another"), ANN)
        await yard.start(2)
        await yard.until(2, is_assigned)
    before, another, after = await yard.parts.log.read(0, 1000, [LeadershipTaken.name])
    assert another.event.actor == ANN.actor
    assert before.event.actor == after.event.actor != ANN.actor
