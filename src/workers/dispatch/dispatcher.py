"""Dispatches builds: one leader assigns queued builds to agents that wait for builds, ends or requeues builds of lost
nodes, and scales node pools.

A new leader reads the log from its beginning, to build up queues and used slots in memory. If another dispatcher has
taken over, the leader's append of `build.assigned` fails. Other dispatchers wait for the lock that the leader holds.
"""

import asyncio
import contextlib
from collections.abc import Sequence
from dataclasses import dataclass, field
from secrets import token_hex
from typing import NamedTuple
from uuid import uuid4

import psycopg
import structlog
from psycopg import AsyncConnection

from commands.autoscaling import FailMachine, MachineRegistration, RetryRemoval, ScaleDown, ScaleUp, is_virtual
from commands.build_assignment import AssignBuild, LoseBuild, TakeLeadership
from commands.builds import AbortBuild
from commands.handler import Command, CommandContext, Handler
from commands.nodes import MarkNodeOffline
from commands.registrations import new_registration
from domain import autoscaling, builds, docker_agents, jobs, nodes, pools, vcenter, vcenter_operations
from domain.builds import BuildAssigned, BuildFinished
from domain.core.errors import Conflict, NotFound, StreamDamaged
from domain.core.events import Damaged, Recorded
from domain.docker_agents import PREFIX
from domain.nodes import NodeConnected
from store.clock import utcnow
from store.log.append import AppendFailed, VersionConflict
from store.log.cursor import LogCursor
from store.log.event_log import EventLog
from store.log.ids import Ids
from store.postgres.leader_lock import DISPATCH_LOCK, hold_leader_lock
from store.postgres.notifications import POLLS, Listener
from store.tables.agent_gauges import AgentGauges
from store.tables.build_logs import EMPTY_LOG, BuildLogs
from store.tables.waiting_reasons import WaitingReasons
from workers.dispatch.autoscaling import NewIds, decide_scaling
from workers.dispatch.autoscaling_state import AutoscalingState
from workers.dispatch.dispatch_state import PLACEMENT_EVENTS, ActiveBuild, DispatchState, LostBuild
from workers.dispatch.forgotten_builds import FORGOTTEN_AFTER_S, ForgottenBuilds
from workers.dispatch.placement import explain_waiting, place_builds

log = structlog.get_logger()

AREAS = (jobs, nodes, pools, autoscaling, docker_agents, vcenter, vcenter_operations)
SUBSCRIBED_EVENTS = [event.name for area in (builds, *AREAS) for event in area.EVENTS]
NOTIFY_ON = frozenset(event.name for events in (PLACEMENT_EVENTS, *(area.EVENTS for area in AREAS)) for event in events)
"""Names of the events that can change which build runs on which node. They wake the dispatcher. It reads the other
SUBSCRIBED_EVENTS once a second, in case one of them is damaged.
"""
BATCH_SIZE = 1_000
"""Number of events that are read at once. It is large because a new leader reads the whole log."""
DEBOUNCE_S = 0.003
"""Shortest time in seconds between two rounds, so that one round handles many events under load. An idle dispatcher
still reacts at once.
"""
ACKNOWLEDGE_TIMEOUT_S = 5.0
"""Seconds that an agent has to begin an assigned build. After this time the build is queued again."""
OFFLINE_AFTER_S = 30.0
"""Seconds of silence of an agent after which its node is offline and its builds are lost."""
MAX_EXPLAINED = 200
"""Number of builds of each queue whose waiting reason is stored. Later builds of the queue wait for the same reason."""
POLL_EXPIRY_S = 25.0
"""Seconds of silence of an agent after which its poll counts as closed. This must be longer than a poll takes at most:
`POLL_TIMEOUT_S` in `api/live/agent_polls.py`, 20 s.
"""
CHECK_INTERVAL_S = 1.0
"""Seconds between two checks for silent agents, unacknowledged builds and repaired streams."""
SCALING_INTERVAL_S = 0.2
"""Shortest time in seconds between two decisions about the machines of node pools. If no decision was made for this
long, a new build causes one at once.
"""
SCALING_REST = 19
"""Smallest pause after a decision about machines, as a multiple of the time that the decision took. So decisions take a
twentieth of the time at most, even with thousands of queues.
"""
MAX_SCALING_COMMANDS = 20
"""Number of commands about machines that are executed in one round, so that builds do not wait long for them."""
OPERATION_IDS = 2 * MAX_SCALING_COMMANDS
"""Number of ids of operations on vCenters that are drawn in advance, once a node pool has virtual machines."""
FENCED = (AssignBuild, ScaleUp, ScaleDown, FailMachine, RetryRemoval)
"""Commands that only the leader can execute."""
RECONNECT_DELAY_S = 0.2
"""Seconds from the loss of the leadership until the dispatcher tries to lead again."""


class SteppedDown(Exception):
    """Raised when this dispatcher must stop leading: another dispatcher leads, or the state in memory is outdated."""


class Poll(NamedTuple):
    free: int
    """Number of builds that the agent can take."""
    at_us: int
    """When the agent polled, in microseconds since 1970, by the database's clock."""


@dataclass
class Dispatcher:
    conninfo: str
    log: EventLog
    handler: Handler
    listener: Listener
    gauges: AgentGauges
    build_logs: BuildLogs
    waiting_reasons: WaitingReasons
    ids: Ids
    acknowledge_timeout_s: float = ACKNOWLEDGE_TIMEOUT_S
    offline_after_s: float = OFFLINE_AFTER_S
    forgotten_after_s: float = FORGOTTEN_AFTER_S
    _cursor: LogCursor = field(init=False)
    _polls: dict[int, Poll] = field(default_factory=dict)
    """Node id -> the node's latest poll that a notification has reported since the last call of `take_polls`."""
    _counted_polls: dict[int, int] = field(default_factory=dict)
    """Node id -> `at_us` of the last poll that `take_polls` returned. If a notification later reports a poll that was
    already read from the database, the equal `at_us` shows that it is the same poll.
    """
    _missed_polls: bool = False

    def __post_init__(self) -> None:
        self._cursor = LogCursor(
            self.log,
            self.listener,
            SUBSCRIBED_EVENTS,
            notify_on=NOTIFY_ON,
            batch_size=BATCH_SIZE,
            debounce_s=DEBOUNCE_S,
        )

    async def run(self) -> None:
        """Dispatches builds while this process leads, and waits to lead otherwise. Runs until cancelled."""
        with self._cursor.listening(), self.listener.subscribed(POLLS, self._polled):
            while True:
                try:
                    async with hold_leader_lock(self.conninfo, DISPATCH_LOCK) as lock:
                        await _Leadership(self, lock).lead()
                except (psycopg.OperationalError, AppendFailed, SteppedDown, StreamDamaged) as error:
                    log.warning("leadership lost", error=str(error).strip())
                    await asyncio.sleep(RECONNECT_DELAY_S)

    def _polled(self, payload: str | None) -> None:
        if payload is None:
            self._missed_polls = True
        else:
            node_id, free, at_us = map(int, payload.split(":"))
            self._polls[node_id] = Poll(free, at_us)
        self._cursor.notify()

    def forget_polls(self) -> None:
        """Lets `take_polls` return all open polls, for a new leader."""
        self._missed_polls = True
        self._counted_polls.clear()

    async def take_polls(self) -> dict[int, int]:
        """Returns node id -> number of builds that the open poll of the node's agent accepts, for polls that changed
        since the last call.
        """
        polls, self._polls = self._polls, {}
        if self._missed_polls:
            self._missed_polls = False
            gauges = await self.gauges.fetch_all()
            polls |= {gauge.node_id: Poll(gauge.free, gauge.seen_us) for gauge in gauges if gauge.polling}
        new = {node_id: poll for node_id, poll in polls.items() if poll.at_us != self._counted_polls.get(node_id)}
        self._counted_polls |= {node_id: poll.at_us for node_id, poll in new.items()}
        return {node_id: poll.free for node_id, poll in new.items()}


class _Leadership:
    def __init__(self, dispatcher: Dispatcher, lock: AsyncConnection) -> None:
        self._dispatcher = dispatcher
        self._lock = lock
        self._leader = uuid4().hex
        self._caller = CommandContext("system:dispatch")
        self._state = DispatchState()
        self._scaling = AutoscalingState()
        self._new_ids = NewIds(_new_machine, [])
        self._next_scaling = 0.0
        self._defers_scaling = False
        self._cursor = dispatcher._cursor
        self._cursor.position = 0
        self._assigned_at: dict[int, float] = {}
        self._connected_at: dict[int, float] = {}
        self._forgotten = ForgottenBuilds(dispatcher.forgotten_after_s)
        self._now = asyncio.get_running_loop().time
        self._since = self._now()
        self._reasons: dict[int, str] | None = None

    async def lead(self) -> None:
        dispatcher = self._dispatcher
        await dispatcher.handler.execute(TakeLeadership(self._leader), self._caller)
        await self._cursor.drain(self._apply)
        log.info("leading dispatch", queued=len(self._state.queued), running=len(self._state.active))
        dispatcher.forget_polls()
        next_look = self._now()
        while True:
            # Taken before the log is read: an agent connects before it polls, and `node.connected` resets the poll.
            polls = await dispatcher.take_polls()
            await self._cursor.drain(self._apply)
            for node_id, free in polls.items():
                self._state.polled(node_id, free)
            if await self._scale():
                await self._cursor.drain(self._apply)  # so that no build goes to a machine that is being destroyed
            for lost in self._state.lost_builds():
                await self._end_lost(lost)
            await self._assign()
            if self._now() >= next_look:
                await self._check_agents()
                await self._check_repaired()
                await self._store_waiting_reasons()
                next_look = self._now() + CHECK_INTERVAL_S
            next_round = min(next_look, self._next_scaling) if self._defers_scaling else next_look
            await self._cursor.wait(max(0.0, next_round - self._now()))

    async def _apply(self, events: Sequence[Recorded]) -> None:
        for recorded in events:
            if isinstance(recorded.event, Damaged):
                log.error("damaged stream ignored", stream=recorded.stream, position=recorded.position)
                self._state.mark_damaged(recorded.stream)
                continue
            self._state.apply(recorded.event)
            self._scaling.apply(recorded.event)
            if isinstance(recorded.event, BuildAssigned):
                self._assigned_at[recorded.event.build_id] = self._now()
            elif isinstance(recorded.event, BuildFinished):
                self._assigned_at.pop(recorded.event.build_id, None)
            elif isinstance(recorded.event, NodeConnected):
                self._connected_at[recorded.event.node_id] = self._now()

    async def _end_lost(self, lost: LostBuild) -> None:
        build, node_id = lost.build, lost.node_id
        logs = await self._dispatcher.build_logs.fetch_ends(build.build_id)
        if lost.reason == "agent_lost" and node_id is not None:
            log_end = logs.get(build.attempt, EMPTY_LOG)
            await self._execute(LoseBuild(build.build_id, node_id, build.attempt, lost.reason, log_end))
        else:
            await self._execute(AbortBuild(build.build_id, lost.reason, logs=logs))
            if lost.reason == "job_deleted":
                # Deletes lines that the agent sent after the logs of the job were deleted.
                await self._dispatcher.build_logs.delete_build(build.build_id)

    async def _assign(self) -> None:
        placed = place_builds(self._state, utcnow())
        # All assignments share one commit.
        done = await asyncio.gather(
            *(
                self._execute(AssignBuild(build.build_id, node_id, self._leader, self._state.nodes[node_id].pool_id))
                for build, node_id in placed
            )
        )
        for assigned, (_, node_id) in zip(done, placed, strict=True):
            if not assigned and node_id in self._state.nodes:
                self._state.open_slots[node_id] += 1  # the build ended meanwhile; the poll still takes a build

    async def _scale(self) -> bool:
        """Spawns and destroys machines of node pools. Returns whether this appended events to the log. Before the call,
        `_state` must contain all assignments in the log, so that no machine with a build is destroyed.
        """
        now = self._now()
        self._defers_scaling = bool(self._scaling.pools) and now < self._next_scaling
        if not self._scaling.pools or self._defers_scaling:
            return False
        commands: list[Command] = []
        await self._draw_operation_ids()
        try:
            commands = decide_scaling(self._state, self._scaling, self._leader, utcnow(), self._new_ids)
        except Exception:
            log.exception("node pools cannot be scaled")  # builds are dispatched all the same
        self._next_scaling = now + max(SCALING_INTERVAL_S, (self._now() - now) * SCALING_REST)
        # One after the other, since those of a pool append to one stream.
        return any([await self._execute(command) for command in commands[:MAX_SCALING_COMMANDS]])

    async def _draw_operation_ids(self) -> None:
        """Draws ids for operations on vCenters, if a node pool has or gets virtual machines."""
        known = self._new_ids.operation_ids
        if len(known) < OPERATION_IDS and any(
            (pool.setting and pool.setting.vcenter) or any(map(is_virtual, pool.machines))
            for pool in self._scaling.pools.values()
        ):
            draws = (self._dispatcher.ids.draw("vcenter_operations") for _ in range(OPERATION_IDS - len(known)))
            known += await asyncio.gather(*draws)

    async def _check_agents(self) -> None:
        """Handles changes that no event reports: agents that did not acknowledge a build, that have gone silent, or
        that do not run a build any more.
        """
        await self._lock.execute("SELECT")  # raises when the lock is lost
        now = self._now()
        for build_id, active in self._state.unacknowledged():
            if now - self._assigned_at.get(build_id, self._since) < self._dispatcher.acknowledge_timeout_s:
                continue
            if await self._dispatcher.build_logs.count_lines(build_id, active.build.attempt):
                continue  # the agent has begun: it is checking out
            self._state.polled(active.node_id, 0)
            await self._execute(LoseBuild(build_id, active.node_id, active.build.attempt, "not_acknowledged"))
        gauges = await self._dispatcher.gauges.fetch_all()
        running = {gauge.node_id: gauge.running for gauge in gauges if gauge.running is not None}
        for active in self._forgotten.find(self._state.active.values(), running, now):
            await self._end_forgotten(active)
        silent = {gauge.node_id: gauge.silent_s for gauge in gauges}
        led_for = now - self._since
        for node_id, node in list(self._state.nodes.items()):
            # An agent that has just connected is not silent, though its gauge may not show it yet.
            since_connect = now - self._connected_at.get(node_id, self._since)
            silence = min(silent.get(node_id, led_for), led_for, since_connect)
            if silence > POLL_EXPIRY_S:
                self._state.polled(node_id, 0)
            if node.session is not None and silence > self._dispatcher.offline_after_s:
                # Its builds are lost then: the next round ends them.
                await self._execute(MarkNodeOffline(node_id, node.session, f"not heard of for {silence:.0f} s"))

    async def _end_forgotten(self, active: ActiveBuild) -> None:
        build_id, attempt = active.build.build_id, active.build.attempt
        detail = f"the agent of node {active.node_id} did not run it any more and had not reported its end"
        logs = await self._dispatcher.build_logs.fetch_ends(build_id)
        log_end = logs.get(attempt, EMPTY_LOG)
        if await self._execute(LoseBuild(build_id, active.node_id, attempt, "agent_lost", log_end, detail)):
            log.warning("build forgotten by its agent", build=build_id, attempt=attempt, node=active.node_id)

    async def _check_repaired(self) -> None:
        """Raises SteppedDown when a damaged stream can be read again. The next leader then reads the whole log again,
        with that stream.
        """
        for stream in self._state.damaged:
            with contextlib.suppress(StreamDamaged):
                await self._dispatcher.log.fold([stream], lambda name: None, lambda value, events: None)
                raise SteppedDown(f"{stream} can be read again")

    async def _store_waiting_reasons(self) -> None:
        """Stores the waiting reasons of queued builds, which GET /builds/{id} shows."""
        reasons = {
            build_id: reason.replace("{build_id}", str(build_id))
            for key, reason in explain_waiting(self._state, utcnow(), self._scaling.pools).items()
            for build_id in self._state.queues[key][:MAX_EXPLAINED]
        }
        if reasons != self._reasons:
            await self._dispatcher.waiting_reasons.replace(reasons)
            self._reasons = reasons

    async def _execute(self, command: Command) -> bool:
        """Executes a command. Returns True if it appended events, False if it was refused or had no effect.

        Raises SteppedDown when another dispatcher has taken over, or a stream has changed meanwhile.
        """
        try:
            return (await self._dispatcher.handler.execute(command, self._caller)).position is not None
        except VersionConflict as error:
            raise SteppedDown(str(error)) from error
        except Conflict as error:
            if isinstance(command, FENCED):
                raise SteppedDown(error.detail) from error
            log.info("already so", detail=error.detail)
        except NotFound as error:
            log.info("gone", detail=error.detail)
        except StreamDamaged as error:
            log.error("cannot be done", command=type(command).__name__, detail=error.detail)
        return False


def _new_machine() -> MachineRegistration:
    return MachineRegistration(PREFIX + token_hex(8), *new_registration(utcnow()))
