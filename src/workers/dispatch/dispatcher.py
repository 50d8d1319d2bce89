"""The dispatcher: one leader gives queued builds to waiting agents, and takes them back from nodes that are lost.

It holds queue and slots in memory, made by following the log from its start, and appends `build.assigned` fenced by
its leadership. Standbys wait for its lock.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from uuid import uuid4

import psycopg
import structlog
from psycopg import AsyncConnection

from commands.builds import AbortBuild, AssignBuild, LoseBuild
from commands.dispatch import TakeLeadership
from commands.handler import Command, CommandContext, Handler
from commands.nodes import MarkNodeOffline
from domain import builds, jobs, nodes, pools
from domain.builds import BuildAssigned, BuildFinished
from domain.core.errors import Conflict, NotFound, StreamDamaged
from domain.core.events import Damaged, Recorded
from domain.nodes import NodeConnected
from store.clock import utcnow
from store.log.append import AppendFailed, VersionConflict
from store.log.cursor import LogCursor
from store.log.event_log import EventLog
from store.postgres.leader_lock import hold_leader_lock
from store.postgres.notifications import POLLS, Listener
from store.tables.agent_gauges import AgentGauges
from store.tables.build_logs import EMPTY_LOG, BuildLogs
from store.tables.waiting_reasons import WaitingReasons
from workers.dispatch.placement import assignments, waiting_for
from workers.dispatch.scheduler import PLACING, LostBuild, Scheduler

log = structlog.get_logger()

LOCK = "testhide dispatcher"
FOLLOWED = [event.name for area in (builds, jobs, nodes, pools) for event in area.EVENTS]
NOTIFY_ON = [event.name for area in (PLACING, jobs.EVENTS, nodes.EVENTS, pools.EVENTS) for event in area]
"""What may change who gets which build. The rest is only looked at for damage, once a second."""
BATCH_SIZE = 1_000
"""Events."""
DEBOUNCE_S = 0.003
"""Between two rounds: under load one round handles many events, and an idle dispatcher reacts at once."""
ACKNOWLEDGE_S = 5.0
"""An assignment that its agent has not taken up by then goes back to the queue."""
OFFLINE_S = 30.0
"""A node whose agent was silent for this long is offline, and its builds are lost."""
EXPLAINED = 200
"""Builds of each kind for which is noted why they wait."""
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
    waiting_reasons: WaitingReasons
    acknowledge_s: float = ACKNOWLEDGE_S
    offline_s: float = OFFLINE_S
    _cursor: LogCursor = field(init=False)
    _polls: dict[int, int] = field(default_factory=dict)
    _missed_polls: bool = False

    def __post_init__(self) -> None:
        self._cursor = LogCursor(
            self.log, self.listener, FOLLOWED, notify_on=NOTIFY_ON, batch_size=BATCH_SIZE, debounce_s=DEBOUNCE_S
        )

    async def run(self) -> None:
        """Leads whenever it can, until it is cancelled."""
        with self._cursor.listening(), self.listener.subscribed(POLLS, self._polled):
            while True:
                try:
                    async with hold_leader_lock(self.conninfo, LOCK) as lock:
                        await _Leadership(self, lock).lead()
                except (psycopg.OperationalError, AppendFailed, SteppedDown, StreamDamaged) as error:
                    log.warning("leadership lost", error=str(error).strip())
                    await asyncio.sleep(0.2)

    def _polled(self, payload: str | None) -> None:
        if payload is None:
            self._missed_polls = True
        else:
            node_id, _, free = payload.partition(":")
            self._polls[int(node_id)] = int(free)
        self._cursor.notify()

    async def new_polls(self) -> dict[int, int]:
        """Node id -> builds that its agent takes now, for those that said so since the last call."""
        polls, self._polls = self._polls, {}
        if self._missed_polls:
            self._missed_polls = False
            polls = {gauge.node_id: gauge.free for gauge in await self.gauges.fetch_all() if gauge.polling} | polls
        return polls


class _Leadership:
    def __init__(self, dispatcher: Dispatcher, lock: AsyncConnection) -> None:
        self._dispatcher = dispatcher
        self._lock = lock
        self._leader = uuid4().hex
        self._caller = CommandContext("system:dispatch")
        self._scheduler = Scheduler()
        self._cursor = dispatcher._cursor
        self._cursor.position = 0
        self._assigned_at: dict[int, float] = {}
        self._connected_at: dict[int, float] = {}
        self._now = asyncio.get_running_loop().time
        self._since = self._now()
        self._reasons: dict[int, str] | None = None

    async def lead(self) -> None:
        dispatcher = self._dispatcher
        await dispatcher.handler.execute(TakeLeadership(self._leader), self._caller)
        await self._cursor.drain(self._apply)
        log.info("leading dispatch", queued=len(self._scheduler.queue), running=len(self._scheduler.active))
        dispatcher._missed_polls = True
        next_look = self._now()
        while True:
            # Taken before the log is read: an agent connects before it polls, and a new session asks for nothing yet.
            polls = await dispatcher.new_polls()
            await self._cursor.drain(self._apply)
            for node_id, free in polls.items():
                self._scheduler.polled(node_id, free)
            for orphan in self._scheduler.orphans():
                await self._take_back(orphan)
            await self._assign()
            if self._now() >= next_look:
                await self._look_after()
                await self._look_for_mended()
                await self._say_why()
                next_look = self._now() + 1.0
            await self._cursor.wait(max(0.0, next_look - self._now()))

    async def _apply(self, events: Sequence[Recorded]) -> None:
        for recorded in events:
            if isinstance(recorded.event, Damaged):
                log.error("left alone", stream=recorded.stream, position=recorded.position)
                self._scheduler.leave_alone(recorded.stream)
                continue
            self._scheduler.apply(recorded.event)
            if isinstance(recorded.event, BuildAssigned):
                self._assigned_at[recorded.event.build_id] = self._now()
            elif isinstance(recorded.event, BuildFinished):
                self._assigned_at.pop(recorded.event.build_id, None)
            elif isinstance(recorded.event, NodeConnected):
                self._connected_at[recorded.event.node_id] = self._now()

    async def _take_back(self, orphan: LostBuild) -> None:
        build, node_id = orphan.build, orphan.node_id
        logs = await self._dispatcher.build_logs.fetch_ends(build.build_id)
        if orphan.reason == "agent_lost" and node_id is not None:
            log_end = logs.get(build.attempt, EMPTY_LOG)
            await self._execute(LoseBuild(build.build_id, node_id, build.attempt, orphan.reason, log_end))
        else:
            await self._execute(AbortBuild(build.build_id, orphan.reason, logs=logs))
            if orphan.reason == "job_deleted":
                # What its agent said after the logs of the job were deleted.
                await self._dispatcher.build_logs.delete_build(build.build_id)

    async def _assign(self) -> None:
        placed = assignments(self._scheduler, utcnow())
        # All of them queue for the same commit.
        done = await asyncio.gather(
            *(self._execute(AssignBuild(build.build_id, node_id, self._leader)) for build, node_id in placed)
        )
        for assigned, (_, node_id) in zip(done, placed, strict=True):
            if not assigned and (node := self._scheduler.nodes.get(node_id)):
                node.asks += 1  # the build had ended meanwhile; the poll is still open

    async def _look_after(self) -> None:
        """What no event tells: assignments that nobody took up, agents that fell silent."""
        await self._lock.execute("SELECT")  # who has lost it leads no more
        now = self._now()
        for build_id, active in self._scheduler.unacknowledged():
            if now - self._assigned_at.get(build_id, self._since) < self._dispatcher.acknowledge_s:
                continue
            if await self._dispatcher.build_logs.count_lines(build_id, active.build.attempt):
                continue  # it is checking out
            self._scheduler.polled(active.node_id, 0)
            await self._execute(LoseBuild(build_id, active.node_id, active.build.attempt, "not_acknowledged"))
        silent = {gauge.node_id: gauge.silent_s for gauge in await self._dispatcher.gauges.fetch_all()}
        led_for = now - self._since
        for node_id, node in list(self._scheduler.nodes.items()):
            # Whoever has just connected was heard of, though the gauge may not say so yet.
            since_connect = now - self._connected_at.get(node_id, self._since)
            silence = min(silent.get(node_id, led_for), led_for, since_connect)
            if silence > POLL_GRACE_S:
                self._scheduler.polled(node_id, 0)
            if node.session is not None and silence > self._dispatcher.offline_s:
                # Its builds are orphans then.
                await self._execute(MarkNodeOffline(node_id, node.session, f"not heard of for {silence:.0f} s"))

    async def _look_for_mended(self) -> None:
        """Whoever leads next goes through the log again."""
        for stream in self._scheduler.damaged:
            with contextlib.suppress(StreamDamaged):
                await self._dispatcher.log.load([stream])
                raise SteppedDown(f"{stream} can be read again")

    async def _say_why(self) -> None:
        """What queued builds wait for, for whoever looks at them."""
        reasons = {
            build_id: reason
            for lane, reason in waiting_for(self._scheduler, utcnow()).items()
            for build_id in self._scheduler.lanes[lane][:EXPLAINED]
        }
        if reasons != self._reasons:
            await self._dispatcher.waiting_reasons.replace(reasons)
            self._reasons = reasons

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
        except StreamDamaged as error:
            log.error("cannot be done", command=type(command).__name__, detail=error.detail)
        return False
