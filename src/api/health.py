"""Health of the server: liveness, readiness, and the positions of projections and reactions."""

import shutil
from collections.abc import Sequence
from datetime import timedelta
from typing import Literal, TypeVar

import msgspec
from litestar import Controller, Response, get
from litestar.openapi.datastructures import ResponseSpec
from psycopg import AsyncConnection, OperationalError

from api.http.authentication import PUBLIC
from api.http.permissions import CAN_READ, User
from api.http.rate_limits import NOT_COUNTED
from api.http.request_context import RequestContext
from api.http.services import Services
from domain.core.errors import Unavailable
from projections import audit_trail
from projections.engine.inspection import Inspection, inspect
from projections.engine.read_your_writes import WAIT_TIMEOUT_S
from projections.engine.schemas import LIVE, lock_name
from projections.rebuild.status import ReadModelStatus, overview
from projections.registry import PROJECTIONS
from store.audit.checkpoints import AuditTree
from store.clock import utcnow
from store.key_ring.rotation import is_interrupted
from store.migrations.lost_tables import describe, find_lost_tables
from store.postgres.leader_lock import DISPATCH_LOCK, SCHEDULES_LOCK, Leader, fetch_leaders
from store.tables import deliveries, log_positions, reactions
from store.tables.alarms import fetch_alarms
from store.tables.reactions import ReactionStatus

S = TypeVar("S", ReadModelStatus, ReactionStatus)

SEAL_OVERDUE = timedelta(minutes=5)
"""Time that an event may wait for a checkpoint before the server counts as degraded. Usually a checkpoint is signed
every few seconds.
"""
LEADERS = {DISPATCH_LOCK: "testhide dispatch", SCHEDULES_LOCK: "testhide work"}
"""Leader lock -> the command whose process should hold it."""
LEADER_IDLE_S = 30.0
"""Seconds without a query on a leader's connection, after which the leader's process counts as hanging. A leader checks
its lock every second, but a new leader first reads the whole log.
"""
REACTION_OVERDUE_S = 60.0
"""Seconds after which a due reaction counts as overdue. A sweep runs due reactions every 5 s."""
DELIVERY_OVERDUE_S = 300.0
"""Seconds after which a due delivery counts as overdue. The limit is high because sending the messages about many
builds takes minutes if their receiver needs 10 s for some of them.
"""
MIN_FREE_BYTES = 256 * 2**20
"""Free bytes on a disk below which the server counts as degraded. PostgreSQL alone, if it runs in the data folder,
writes its log in files of 16 MB.
"""


class Liveness(msgspec.Struct):
    status: Literal["ok", "degraded"]
    version: str
    build: str
    """Commit that the server was built from, or its version if the commit is not known."""


class LaggingModel(msgspec.Struct):
    name: str
    """Name of the read model."""
    position: int
    """Position that the read model has reached."""
    lag: int
    """Number of events that the read model has not applied yet."""


class Readiness(msgspec.Struct):
    status: str
    """Status of the server: `ok`; `degraded: ...` with the problems that need an operator while the server goes on; or
    the reason why it is not ready.
    """
    position: int
    """Position of the newest event in the log; 0 while a table is lost."""
    projected: int
    """Position that all read models except broken ones have reached; 0 while a read model is missing."""
    lagging: list[LaggingModel]
    """Read models that had not reached the end of the log after 2 s."""
    sealed: int | None
    """Position up to which checkpoints cover the log; null before the first checkpoint."""
    sealed_age_s: int | None
    """Seconds since the newest checkpoint was signed; null before the first checkpoint."""
    progress: list[str]
    """Progress of the first five reactions that take long, such as the deletion of a job with many artifacts."""


class HealthController(Controller):
    """Liveness and readiness of the server."""

    tags = ["Health"]
    opt = {**PUBLIC, **NOT_COUNTED}

    @get("/healthz")
    async def get_health(self, ctx: RequestContext) -> Liveness:
        """Answers 200 as long as the process is alive, without asking the database. The status is `degraded` if a read
        model is broken or could not apply an event.
        """
        status: Literal["ok", "degraded"] = "degraded" if ctx.services.waiter.is_degraded else "ok"
        return Liveness(status, ctx.services.version, ctx.services.build)

    @get(
        "/readyz",
        responses={503: ResponseSpec(Readiness, description="Not ready", generate_examples=False)},
        opt={"problems": (Unavailable,)},
    )
    async def get_readiness(self, ctx: RequestContext) -> Response[Readiness]:
        """Answers 200 if the database answers and the read models have reached the end of the log. Answers 503
        otherwise, and also while a read model is broken or another table is lost.
        """
        degraded = _find_disk_problems(ctx.services)
        try:
            return await self._inspect(ctx, degraded)
        except OperationalError as error:
            if not degraded:
                raise
            detail = f"The database cannot be reached, perhaps for want of room: {'; '.join(degraded)}."
            raise Unavailable(detail) from error

    async def _inspect(self, ctx: RequestContext, degraded: list[str]) -> Response[Readiness]:
        """Inspects the database and returns the answer. `degraded` lists problems that the caller has found already;
        the answer names them, too.
        """
        async with ctx.reading() as connection:
            if lost := await find_lost_tables(connection):
                # The other checks would fail without these tables.
                return Response(
                    Readiness("; ".join([describe(lost), *degraded]), 0, 0, [], None, None, []), status_code=503
                )
            live = await inspect(connection, PROJECTIONS)
            checkpoint = await AuditTree(connection).checkpoint()
            progress = await reactions.fetch_progress(connection)
            problems = _find_unusable(live)
            degraded += await _find_idle_projectors(connection)
            if not problems:
                degraded += await _find_degraded(connection, ctx.services.waiter.is_degraded)
        behind = live.sound_behind(live.head)
        if behind:
            await ctx.services.waiter.wait_reached(live.head)
            async with ctx.reading() as connection:
                behind = (await inspect(connection, PROJECTIONS)).sound_behind(live.head)
        lagging = [LaggingModel(name, position, live.head - position) for name, position in behind.items()]
        if lagging:
            names = ", ".join(f"{item.name} at {item.position} of {live.head}" for item in lagging)
            problems.append(f"read models more than {WAIT_TIMEOUT_S:.0f} s behind: {names}")
        is_complete = len(live.positions) == len(PROJECTIONS)
        readiness = Readiness(
            "; ".join(
                problems + degraded if problems else [f"degraded: {'; '.join(degraded)}"] if degraded else ["ok"]
            ),
            live.head,
            min([live.head, *behind.values()]) if is_complete else 0,
            lagging,
            checkpoint.size if checkpoint else None,
            round((utcnow() - checkpoint.at).total_seconds()) if checkpoint else None,
            progress,
        )
        return Response(readiness, status_code=503 if problems else 200)


def _find_unusable(live: Inspection) -> list[str]:
    """Returns at most two sentences: one about read models that are not built yet, and one about broken read models.
    Each sentence contains the command that repairs them.
    """
    found: list[str] = []
    if missing := " ".join(projection.name for projection in PROJECTIONS if projection.name not in live.positions):
        found.append(f"read models are not built yet: run `testhide projections rebuild {missing} --switch`")
    if live.broken:
        defects = "; ".join(f"{name}: {defect}" for name, defect in live.broken.items())
        names = " ".join(live.broken)
        found.append(f"read models are broken ({defects}): run `testhide projections rebuild {names} --switch`")
    return found


def _find_disk_problems(services: Services) -> list[str]:
    """Returns sentences about disks that are full or nearly full, and about folders that cannot be used."""
    disks: dict[int, list[str]] = {}
    found = []
    for contents, folder in services.disks.items():
        try:
            disks.setdefault(folder.stat().st_dev, []).append(contents)
        except OSError as error:
            found.append(f"the folder of the {contents} cannot be used: {error.strerror}")
    for names in disks.values():
        free = shutil.disk_usage(services.disks[names[0]]).free
        if free < MIN_FREE_BYTES:
            found.append(f"the disk of the {' and the '.join(names)} has {free >> 20} MB free: make room")
    if services.log.is_disk_full:
        found.append("the disk of the database is full: make room (if there is room again, the next write ends this)")
    return found


async def _find_idle_projectors(connection: AsyncConnection) -> list[str]:
    """Returns a sentence for each projector that hangs. A projector that hangs keeps its locks, so no standby can take
    over.
    """
    models = {lock_name(LIVE, projection.name, projection.version): projection.name for projection in PROJECTIONS}
    idle: dict[str, tuple[Leader, list[str]]] = {}
    for lock, leader in (await fetch_leaders(connection, models)).items():
        if leader.idle_s > LEADER_IDLE_S:
            idle.setdefault(leader.process, (leader, []))[1].append(models[lock])
    return [describe_idle("testhide project", leader, sorted(names)) for leader, names in idle.values()]


def describe_idle(command: str, leader: Leader, models: Sequence[str] = ()) -> str:
    """Returns the sentence of `readyz` about a process that hangs and must be restarted. `leader` describes the
    process, and `command` is the command that started it. `models` are the read models of a projector; other processes
    have none.
    """
    events = "all events" if len(models) == len(PROJECTIONS) else f"events to {', '.join(models)}"
    task = f"applies {events} and " if models else ""
    process = f" ({leader.process})" if leader.process else ""
    return f"`{command}`{process} {task}has done nothing for {leader.idle_s:.0f} s: restart it"


async def _find_stalled(connection: AsyncConnection) -> list[str]:
    """Returns sentences about processes that hang, and about overdue reactions and deliveries."""
    found: list[str] = []
    leaders = await fetch_leaders(connection, LEADERS)
    for lock, command in LEADERS.items():
        if lock not in leaders:
            found.append(f"no `{command}` leads: start one, or see what it logs")
        elif leaders[lock].idle_s > LEADER_IDLE_S:
            found.append(describe_idle(command, leaders[lock]))
    for name, late_s in (await reactions.fetch_overdue(connection, REACTION_OVERDUE_S)).items():
        found.append(f"the reaction {name} is {late_s:.0f} s overdue, see what `testhide work` logs")
    overdue = await deliveries.fetch_overdue(connection, utcnow())
    if overdue is not None and overdue[1] > DELIVERY_OVERDUE_S:
        found.append(
            f"deliveries are {overdue[1]:.0f} s overdue, the oldest one of webhook or channel {overdue[0]}: its"
            " receiver is too slow, or see what `testhide work` logs"
        )
    return found


async def _find_degraded(connection: AsyncConnection, has_parked_events: bool) -> list[str]:
    """Returns sentences about problems that an operator must solve, but that do not stop the server."""
    found: list[str] = []
    if has_parked_events:
        found.append("events are parked, see `testhide projections status`")
    if await reactions.has_parked(connection):
        found.append("reactions are parked, see `testhide reactions status`")
    for name, defect in (await log_positions.find_beyond(connection)).items():
        found.append(f"{name} stands still ({defect}): run `testhide repair`")
    found += await fetch_alarms(connection)
    if await is_interrupted(connection):
        found.append("a rotation of the secret key was interrupted: run `testhide secrets rotate` again")
    if await audit_trail.has_unsealed(connection, utcnow() - SEAL_OVERDUE):
        found.append("the log is not sealed any more, see what `testhide work` logs")
    return found + await _find_stalled(connection)


class ProjectionController(Controller):
    """Positions of the read models in the log."""

    path = "/projections"
    tags = ["Projections"]

    @get("", guards=[CAN_READ])
    async def list_projections(self, ctx: RequestContext) -> Sequence[ReadModelStatus]:
        """Returns the status of every version of every read model: its position, and the events that it could not
        apply. Only admins see the texts of errors.
        """
        async with ctx.reading() as connection:
            return without_errors(await overview(connection, PROJECTIONS), ctx.user)


class ReactionController(Controller):
    """Positions of the reactions in the log."""

    path = "/reactions"
    tags = ["Reactions"]

    @get("", guards=[CAN_READ])
    async def list_reactions(self, ctx: RequestContext) -> Sequence[ReactionStatus]:
        """Returns the status of every kind of reaction: the position up to which the log was read for this kind, and
        the numbers of due and of parked reactions. Only admins see the texts of errors.
        """
        return without_errors(await reactions.fetch_statuses(ctx.source), ctx.user)


def without_errors(statuses: Sequence[S], user: User) -> Sequence[S]:
    """Returns the statuses. Removes the texts of errors unless the user is an admin, since these texts may quote data
    of any project.
    """
    if not user.is_admin:
        for status in statuses:
            status.errors = []
    return statuses
