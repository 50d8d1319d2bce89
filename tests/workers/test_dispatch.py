"""Dispatch with real processes and fake agents: no build waits for ever, none runs twice at once."""

import asyncio
import contextlib
import time
from collections.abc import AsyncIterator, Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from datetime import UTC, datetime
from typing import Any

import psycopg
import pytest

from api.live.agent_polls import POLL_TIMEOUT_S
from commands.build_assignment import TakeLeadership
from commands.builds import StartBuild
from commands.handler import CommandContext, Handler
from commands.jobs import ConfigureJob, CreateJob, DeleteJob
from commands.nodes import ConnectNode, DeleteNode, RegisterNode
from commands.projects import CreateProject
from domain.builds import BUILD, Assigned, Finished, Queued
from domain.dispatch import LeadershipTaken
from domain.nodes import NODE
from store.postgres.cancellation import cancel_and_wait
from store.postgres.notifications import EVENTS, POLLS, Listener
from store.tables.agent_gauges import AgentGauges
from store.tables.build_logs import BuildLogs, Line
from store.tables.waiting_reasons import WaitingReasons
from testhide.processes import Core
from tests.support.builders import REPOSITORY, Shop
from tests.support.fake_agent import FakeAgent, until_it_asks
from tests.support.server import Server
from workers.dispatch.dispatcher import OFFLINE_AFTER_S, POLL_EXPIRY_S, Dispatcher


@pytest.fixture
def shop(server: Server) -> Shop:
    return Shop(server)


@pytest.fixture
def gauges(server: Server) -> Iterator[psycopg.Connection]:
    with psycopg.connect(server.engines.database_url, autocommit=True) as connection:
        yield connection


# ----- over HTTP -----


def test_a_build_goes_to_the_agent_that_waits(shop: Shop) -> None:
    agent = shop.new_agent()
    with ThreadPoolExecutor() as threads:
        waiting = threads.submit(agent.run)
        job = shop.new_job(repository=REPOSITORY)
        number = shop.start(job, env={"A": "1"}, secrets={"KEY": "hidden"}, branch="dev", commit_sha="c0ffee")
        build = waiting.result(30)
    assert build["id"] == number
    expected = {"attempt": 1, "job_id": job, "job_name": "Smoke", "project_id": shop.project, "command": "pytest"}
    assert build.items() >= (expected | {"branch": "dev", "commit_sha": "c0ffee", "timeout_s": 3600}).items()
    assert (build["env"]["A"], build["secrets"]) == ("1", {"KEY": "hidden"})
    agent.started(build).raise_for_status()
    assert shop.build(number)["status"] == "running"
    assert agent.log(build, 0, ["one", "two"]).json() == {"acknowledged": 2}
    assert agent.finished(build).json() == {"status": "passed"}
    ended = shop.build(number)
    assert (ended["status"], ended["log_lines"], ended["attempt"]) == ("passed", 2, 1)


def test_the_dispatcher_takes_no_poll_for_closed_that_an_agent_still_has_open() -> None:
    assert POLL_TIMEOUT_S < POLL_EXPIRY_S < OFFLINE_AFTER_S


def test_without_its_scm_endpoint_a_build_of_a_change_fails_and_one_started_by_hand_says_so(shop: Shop) -> None:
    project = Shop(shop.server)
    endpoint = {"type": "github", "name": "Web", "project_id": project.project, "repo": "acme/web", "token": "t"}
    created = shop.admin.create("/scm", **endpoint)
    shop.admin.when("PUT", f"/jobs/{project.job}/triggers", json={"branches": ["main"]}).then(200)
    change = {"project_id": project.project, "branch": "main", "commit_sha": "c0ffee", "paths": ["a.py"]}
    (of_change,) = shop.admin.when("POST", "/builds/git-notify", json=change).then(200)["build_ids"]
    by_hand = project.start(commit_sha="c0ffee")
    shop.admin.when("DELETE", f"/scm/{created['id']}").then(204)
    agent = project.new_agent()
    begun = time.monotonic()
    build = agent.take_up()
    assert build["id"] == by_hand
    assert time.monotonic() - begun < POLL_TIMEOUT_S / 2, "the slot of the build that failed is free at once"
    agent.finished(build).raise_for_status()
    assert "no SCM endpoint" in project.ended(by_hand)["detail"]
    ended = project.ended(of_change)
    assert (ended["status"], ended["reason"]) == ("failed", "checkout_failed")
    assert "no SCM endpoint" in ended["detail"]


def test_an_agent_that_comes_later_finds_what_waits(shop: Shop) -> None:
    numbers = [shop.start(), shop.start()]
    agent = shop.new_agent(max_parallel=2)
    builds = [agent.take_up(free=2), agent.take_up(free=1)]
    assert sorted(build["id"] for build in builds) == numbers
    assert {agent.finished(build).json()["status"] for build in builds} == {"passed"}


def test_an_assignment_that_nobody_takes_up_goes_to_another_agent(shop: Shop) -> None:
    silent, other = shop.new_agent(), shop.new_agent()
    number = shop.start()
    lost = silent.run()
    build = other.take_up()
    assert (build["id"], build["attempt"]) == (number, 2)
    for answer in (silent.started(lost), silent.log(lost, 0, ["late"]), silent.finished(lost)):
        assert answer.status_code == 404
    assert silent.beat(lost) == [[number, "reassigned"]]
    assert other.finished(build, exit_code=1).json() == {"status": "failed"}


def test_a_log_line_shows_that_an_agent_is_at_it(shop: Shop) -> None:
    agent = shop.new_agent()
    shop.start()
    build = agent.run()
    agent.log(build, 0, ["==> checking out"]).raise_for_status()
    assert agent.beat(build) == []
    agent.started(build, "c0ffee").raise_for_status()
    agent.finished(build).raise_for_status()
    assert shop.build(build["id"])["commit_sha"] == "c0ffee"


def test_one_agent_at_a_time(shop: Shop) -> None:
    token = shop.new_token()
    first = FakeAgent(shop.server.url, token).connected()
    second = FakeAgent(shop.server.url, token)
    answer = second.connect()
    assert answer.status_code == 409
    assert "Another agent" in answer.json()["detail"]
    assert second.ask().status_code == 409
    assert first.connect().status_code == 200, "the same session may connect again"


def test_a_running_build_is_stopped(shop: Shop, gauges: psycopg.Connection) -> None:
    agent = shop.new_agent()
    number = shop.start()
    build = agent.take_up()
    with ThreadPoolExecutor() as threads:
        waiting = threads.submit(agent.next, 0)
        until_it_asks(gauges, agent, free=0)  # what is stopped between two polls its heartbeat hears of
        assert shop.admin.post(f"/api/v3/builds/{number}/stop").json() == {"id": number, "status": "aborted"}
        stop = waiting.result(30)
    assert stop.pop("receipt")
    assert stop == {"type": "stop", "build_id": number, "attempt": 1, "reason": "stopped"}
    assert agent.beat(build) == [[number, "stopped"]]
    assert shop.admin.post(f"/api/v3/builds/{number}/stop").status_code == 409


def test_a_queued_build_is_stopped(shop: Shop) -> None:
    number, next_one = shop.start(), shop.start()
    shop.admin.post(f"/api/v3/builds/{number}/stop").raise_for_status()
    assert shop.new_agent().run()["id"] == next_one
    assert shop.build(number)["reason"] == "stopped_by_user"


def test_a_deleted_jobs_builds_are_stopped(shop: Shop, gauges: psycopg.Connection) -> None:
    job = shop.new_job()
    agent = shop.new_agent()
    number = shop.start(job)
    build = agent.take_up()
    with ThreadPoolExecutor() as threads:
        waiting = threads.submit(agent.next, 0)
        until_it_asks(gauges, agent, free=0)  # what is stopped between two polls its heartbeat hears of
        assert shop.admin.delete(f"/api/v3/jobs/{job}").status_code == 204
        assert waiting.result(30)["build_id"] == number
    assert agent.beat(build) == [[number, "stopped"]]
    assert shop.admin.get(f"/api/v3/builds/{number}").status_code == 404


def test_two_dispatchers_and_the_death_of_the_leader(shop: Shop) -> None:
    """Builds go on, and none is given out twice."""
    server = shop.server
    first = server.processes.pop("dispatch")
    server.start("dispatch")
    agents = [shop.new_agent() for _ in range(2)]
    try:
        started = [shop.start() for _ in range(3)]
        assert [_work(agents[0]) for _ in started] == started
    finally:
        first.kill()
        first.wait(10)
    more = [shop.start() for _ in range(6)]
    turns = iter(more)  # of both agents, which have one poll each, as real agents have
    with ThreadPoolExecutor() as threads:
        done = threads.map(lambda agent: [_work(agent) for _ in turns], agents)
    assert sorted(number for numbers in done for number in numbers) == more, "each runs once, by one of the agents"


def _work(agent: FakeAgent) -> int:
    build = agent.take_up()
    agent.finished(build).raise_for_status()
    return int(build["id"])


# ----- one dispatcher in this process, so that its patience can be short -----

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
        await yard.gauges.record_poll(3, "first", 1, polling=True)
        await yard.until(1, is_assigned)
        state = await yard.until(1, lambda state: isinstance(state, Queued) and state.attempt == 1)
    assert state.attempt == 1


async def test_a_poll_that_ends_late_says_nothing_of_the_next_session(yard: Yard) -> None:
    await yard.gauges.record_poll(3, "first", 1, polling=True)
    await yard.connect("second")
    await yard.gauges.record_poll(3, "second", 2, polling=True)
    await yard.gauges.record_poll(3, "first", 0, polling=False)
    gauge = await yard.gauges.fetch(3)
    assert gauge is not None
    assert (gauge.session, gauge.polling, gauge.free) == ("second", True, 2)


async def test_a_silent_nodes_builds_are_lost(yard: Yard) -> None:
    await yard.start(1)
    async with yard.dispatching(offline_after_s=1.0):
        await yard.gauges.record_poll(3, "first", 1, polling=True)
        await yard.until(1, is_assigned)
        await yard.logs.append(5, 1, 1, 0, [Line(0, "checking out")])
        node = await yard.seen(lambda: yard.parts.log.load_state(NODE.at(3)), lambda node: node.session is None)
        assert node is not None
        await yard.until(1, lambda state: isinstance(state, Queued) and state.attempt == 1)


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
        await yard.gauges.record_poll(3, "first", 1, polling=True)
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


async def test_an_overtaken_leader_assigns_nothing_more(yard: Yard) -> None:
    """Two dispatchers that both believe to lead: the fence lets one of them assign, and each build once."""
    async with yard.dispatching(), yard.dispatching():
        await yard.gauges.record_poll(3, "first", 5, polling=True)
        for number in range(1, 6):
            await yard.start(number)
        for number in range(1, 6):
            await yard.until(number, is_assigned)
    events = await yard.parts.log.read(0, 1000, ["build.assigned"])
    assert sorted(recorded.stream for recorded in events) == [f"build-{number}" for number in range(1, 6)]


async def test_an_overtaken_leader_leads_anew_before_it_assigns_again(yard: Yard) -> None:
    async with yard.dispatching():
        await yard.start(1)
        await yard.gauges.record_poll(3, "first", 2, polling=True)
        await yard.until(1, is_assigned)
        await yard.handler.execute(TakeLeadership("another"), ANN)
        await yard.start(2)
        await yard.until(2, is_assigned)
    before, another, after = await yard.parts.log.read(0, 1000, [LeadershipTaken.name])
    assert another.event.actor == ANN.actor
    assert before.event.actor == after.event.actor != ANN.actor
