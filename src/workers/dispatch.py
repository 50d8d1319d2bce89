"""The dispatcher: one leader gives queued builds to waiting agents, and takes them back from nodes that are lost.

It holds queue and slots in memory, made by following the log from its start, and appends `build.assigned` fenced by
its leadership. Standbys wait for its lock.
"""

import asyncio
from dataclasses import dataclass, field
from uuid import uuid4

import psycopg
import structlog
from psycopg import AsyncConnection

from commands.builds import AbortBuild, AssignBuild, LoseBuild
from commands.dispatch import TakeLeadership
from commands.handler import Caller, Command, Handler
from commands.nodes import MarkNodeOffline
from domain import builds, jobs, nodes, pools
from domain.base import Event
from domain.builds import BuildAssigned
from domain.errors import Conflict, NotFound
from domain.jobs import JobDeleted
from domain.nodes import NodeConnected, NodeDeleted
from store.agents import AgentGauges
from store.append import VersionConflict
from store.build_logs import BuildLogs
from store.listen import EVENTS, POLLS, Listener
from store.log import EventLog
from workers.scheduler import Scheduler

log = structlog.get_logger()

LOCK = "testhide dispatcher"
FOLLOWED = [event.name for area in (builds, jobs, nodes, pools) for event in area.EVENTS]
BATCH = 1_000
ACKNOWLEDGE_S = 5.0
"""An assignment that its agent has not taken up by then goes back to the queue."""
OFFLINE_S = 30.0
"""A node whose agent was silent for this long is offline, and its builds are lost."""
POLL_GRACE_S = 25.0
"""Agents ask again at least every 20 s."""


class SteppedDown(Exception):
    """Another dispatcher leads."""


@dataclass
class Dispatcher:
    conninfo: str
    log: EventLog
    handler: Handler
    listener: Listener
    gauges: AgentGauges
    build_logs: BuildLogs
    _news: asyncio.Event = field(default_factory=asyncio.Event)
    _polls: dict[int, int] = field(default_factory=dict)

    async def run(self) -> None:
        """Leads whenever it can, for ever."""
        with (
            self.listener.subscribed(EVENTS, lambda payload: self._news.set()),
            self.listener.subscribed(POLLS, self._polled),
        ):
            while True:
                try:
                    async with await AsyncConnection.connect(self.conninfo, autocommit=True, connect_timeout=5) as lock:
                        await lock.execute("SELECT pg_advisory_lock(hashtextextended(%s, 0))", (LOCK,))
                        await _Leadership(self, lock).lead()
                except (psycopg.OperationalError, SteppedDown) as error:
                    log.warning("leadership lost", error=str(error).strip())
                    await asyncio.sleep(0.2)

    def _polled(self, payload: str | None) -> None:
        if payload is not None:
            node_id, _, free = payload.partition(":")
            self._polls[int(node_id)] = int(free)
        self._news.set()


class _Leadership:
    def __init__(self, dispatcher: Dispatcher, lock: AsyncConnection) -> None:
        self._dispatcher = dispatcher
        self._lock = lock
        self._leader = uuid4().hex
        self._caller = Caller("system:dispatch")
        self._scheduler = Scheduler()
        self._position = 0
        self._assigned_at: dict[int, float] = {}
        self._now = asyncio.get_running_loop().time
        self._since = self._now()

    async def lead(self) -> None:
        dispatcher = self._dispatcher
        await dispatcher.handler.execute(TakeLeadership(self._leader), self._caller)
        await self._follow(live=False)
        for gauge in await dispatcher.gauges.all():
            if gauge.polling:
                self._scheduler.polled(gauge.node_id, gauge.free)
        log.info("leading dispatch", queued=len(self._scheduler.queue), running=len(self._scheduler.active))
        next_look = self._now()
        while True:
            dispatcher._news.clear()
            await self._follow(live=True)
            while dispatcher._polls:
                self._scheduler.polled(*dispatcher._polls.popitem())
            await self._assign()
            if self._now() >= next_look:
                await self._look_after()
                next_look = self._now() + 1.0
            try:
                await asyncio.wait_for(dispatcher._news.wait(), max(0.0, next_look - self._now()))
            except TimeoutError:
                continue

    async def _follow(self, *, live: bool) -> None:
        while events := await self._dispatcher.log.read(self._position, BATCH, FOLLOWED):
            for recorded in events:
                event = recorded.event
                orphans = self._orphans(event) if live else []
                self._scheduler.apply(event)
                if isinstance(event, BuildAssigned):
                    self._assigned_at[event.build_id] = self._now()
                for command in orphans:
                    await self._execute(command)
            self._position = events[-1].position

    def _orphans(self, event: Event) -> list[Command]:
        """What loses its ground by an event: builds of a deleted job or node, builds of an agent that began anew."""
        scheduler = self._scheduler
        match event:
            case JobDeleted():
                return [self._abort(number, "job_deleted") for number in scheduler.of_job(event.job_id)]
            case NodeDeleted():
                return [
                    self._abort(active.build.build_id, "node_removed") for active in scheduler.on_node(event.node_id)
                ]
            case NodeConnected():
                node = scheduler.nodes.get(event.node_id)
                if node is None or node.session in (None, event.session):
                    return []
                return [
                    LoseBuild(active.build.build_id, event.node_id, active.build.attempt, "agent_lost")
                    for active in scheduler.on_node(event.node_id)
                ]
            case _:
                return []

    def _abort(self, build_id: int, reason: str) -> Command:
        active = self._scheduler.active.get(build_id)
        return AbortBuild(build_id, reason, node_to_wake=active.node_id if active else None)  # type: ignore[arg-type]

    async def _assign(self) -> None:
        placed = self._scheduler.assignments()
        # All of them queue for the same commit.
        done = await asyncio.gather(
            *(self._execute(AssignBuild(build.build_id, node_id, self._leader)) for build, node_id in placed)
        )
        for assigned, (_, node_id) in zip(done, placed, strict=True):
            if not assigned and (node := self._scheduler.nodes.get(node_id)):
                node.asks += 1  # the build had ended meanwhile; the poll is still open

    async def _look_after(self) -> None:
        """What no event tells: assignments that nobody took up, agents that fell silent."""
        now = self._now()
        for build_id, active in self._scheduler.unacknowledged():
            if now - self._assigned_at.get(build_id, self._since) < ACKNOWLEDGE_S or active.node_id is None:
                continue
            if await self._dispatcher.build_logs.count(build_id, active.build.attempt):
                continue  # it is checking out
            self._scheduler.polled(active.node_id, 0)
            await self._execute(LoseBuild(build_id, active.node_id, active.build.attempt, "not_acknowledged"))
        silent = {gauge.node_id: gauge.silent_s for gauge in await self._dispatcher.gauges.all()}
        led_for = now - self._since
        for node_id, node in list(self._scheduler.nodes.items()):
            silence = min(silent.get(node_id, led_for), led_for)
            if silence > POLL_GRACE_S:
                self._scheduler.polled(node_id, 0)
            if node.session is not None and silence > OFFLINE_S:
                await self._execute(MarkNodeOffline(node_id, node.session, f"not heard of for {silence:.0f} s"))
                for active in self._scheduler.on_node(node_id):
                    await self._execute(LoseBuild(active.build.build_id, node_id, active.build.attempt, "agent_lost"))

    async def _execute(self, command: Command) -> bool:
        """Whether something happened."""
        try:
            return (await self._dispatcher.handler.execute(command, self._caller)).position is not None
        except VersionConflict as error:
            raise SteppedDown(str(error)) from error
        except Conflict as error:
            if isinstance(command, AssignBuild):
                raise SteppedDown(error.detail) from error
            log.info("already so", detail=error.detail)
        except NotFound as error:
            log.info("gone", detail=error.detail)
        return False
