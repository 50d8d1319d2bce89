"""The composition root: what each process of the server is made of. The only place that picks adapters.

Heavy imports stand inside the functions, so that a process only carries what it runs.
"""

import asyncio
import contextlib
import secrets as random
from collections.abc import AsyncIterator, Coroutine
from dataclasses import dataclass
from pathlib import Path

import structlog
from psycopg import AsyncConnection
from psycopg.rows import TupleRow
from psycopg_pool import AsyncConnectionPool, PoolTimeout

from domain.registry import EVENTS, UPCASTERS
from store.clock import utcnow
from store.crypto.secrets import Secrets, new_token, token_hash
from store.log.append import GroupCommit
from store.log.codec import EventMapper
from store.log.event_log import EventLog
from store.log.ids import Ids
from store.postgres.connection_settings import find_durability_risks, with_keepalive
from testhide import BUILD, VERSION, runtime
from testhide.operator_errors import Fault
from testhide.settings import Settings

log = structlog.get_logger()

POOL_SIZE = 10
CUT_AGAIN_S = 0.2
OLD_ANSWERS_EVERY_S = 60.0


@dataclass(frozen=True)
class Core:
    """What every process that touches the log has."""

    conninfo: str
    pool: AsyncConnectionPool
    log: EventLog
    ids: Ids
    secrets: Secrets


@contextlib.asynccontextmanager
async def core(settings: Settings, pool_size: int = POOL_SIZE) -> AsyncIterator[Core]:
    """Raises Fault for a database that may lose what it acknowledged, unless that was asked for."""
    secrets = Secrets(settings.secret_key)
    mapper = EventMapper(EVENTS, UPCASTERS)
    conninfo = with_keepalive(settings.database_url)
    commit = GroupCommit(conninfo)
    async with AsyncConnectionPool[AsyncConnection[TupleRow]](
        conninfo, min_size=1, max_size=pool_size, kwargs={"autocommit": True}, timeout=5, open=False, name="queries"
    ) as pool:
        if not settings.unsafe:
            await _refuse_risks(pool)
        try:
            yield Core(conninfo, pool, EventLog(pool, commit, mapper, secrets), Ids(pool), secrets)
        finally:
            await commit.close()


async def _refuse_risks(pool: AsyncConnectionPool) -> None:
    try:
        async with pool.connection() as connection:
            found = await find_durability_risks(connection)
    except PoolTimeout:
        raise Fault("The database cannot be reached.") from None
    if found:
        raise Fault(
            f"This PostgreSQL does not keep what it acknowledges: {'; '.join(found)}. Switch it on, or accept that"
            " by --unsafe or TESTHIDE_UNSAFE=1."
        )


def serve(settings: Settings) -> None:
    """The HTTP API, until SIGTERM. Raises Fault, which within the server would only be a trace."""
    from granian.constants import Interfaces
    from granian.log import LogLevels
    from litestar import Litestar

    from api.app import create_app
    from testhide.http_server import Listening

    async def run() -> None:
        async with api_services(settings) as services:
            await serve_until_signalled(create_app(contextlib.nullcontext(services), VERSION))

    async def serve_until_signalled(app: Litestar) -> None:
        server = Listening(
            app,
            address=settings.host,
            port=settings.port,
            interface=Interfaces.ASGI,
            backlog=2048,
            # Counts open long polls and streams too.
            backpressure=20_000,
            log_level=LogLevels.warning,
            websockets=False,
        )
        stopping = asyncio.create_task(runtime.signalled())
        serving = asyncio.create_task(server.serve())
        await asyncio.wait({stopping, serving}, return_when=asyncio.FIRST_COMPLETED)
        if not serving.done():
            server.stop()  # type: ignore[no-untyped-call]
            # It waits for all answers, a stream has no end and a poll a late one; one may also have begun just now.
            while not serving.done():
                if (streams := app.state.get("streams")) is not None:
                    streams.readers.cut_all()
                    app.state.polls.end_all()
                await asyncio.wait({serving}, timeout=CUT_AGAIN_S)
        await serving

    runtime.run(run())


@contextlib.asynccontextmanager
async def api_services(settings: Settings):  # type: ignore[no-untyped-def]
    from agent.bundle import build_zipapp
    from api.http.services import Services
    from commands.handler import Handler
    from integrations.addresses import parse_networks
    from integrations.blobs import open_blobs
    from integrations.outgoing import HttpOutgoing
    from projections.auth import fetch_session_credentials
    from projections.engine.read_your_writes import Waiter
    from projections.jobs import ProjectOfJob
    from projections.registry import PROJECTIONS
    from projections.time_travel.historical_tables import Past
    from store.postgres.batch_loader import BatchLoader
    from store.postgres.notifications import AGENT_NOTIFICATIONS, BUILD_LOGS, EVENTS, PROJECTED, Listener
    from store.tables.agent_gauges import AgentGauges
    from store.tables.build_logs import BuildLogs
    from store.tables.idempotent_responses import IdempotentResponses

    spool = Path(settings.data_dir, "spool")
    spool.mkdir(parents=True, exist_ok=True, mode=0o700)
    async with core(settings) as parts, HttpOutgoing(parse_networks(settings.outgoing_allow)) as outgoing:
        listener = Listener(parts.conninfo, EVENTS, PROJECTED, AGENT_NOTIFICATIONS, BUILD_LOGS)
        waiter = Waiter(parts.pool, listener, PROJECTIONS)
        await listener.start()
        waiting = asyncio.create_task(waiter.run())
        try:
            yield Services(
                pool=parts.pool,
                log=parts.log,
                handler=Handler(parts.log, utcnow),
                ids=parts.ids,
                secrets=parts.secrets,
                listener=listener,
                waiter=waiter,
                sessions=BatchLoader(parts.pool, fetch_session_credentials),
                project_of_job=ProjectOfJob(parts.pool),
                past=Past(parts.conninfo),
                build_logs=BuildLogs(parts.pool),
                idempotent_responses=IdempotentResponses(parts.pool, parts.secrets),
                gauges=AgentGauges(parts.pool),
                blobs=open_blobs(settings.blobs),
                outgoing=outgoing,
                base_url=settings.public_url,
                spool=spool,
                version=VERSION,
                build=BUILD,
                agent_bundle=build_zipapp(),
                agent_version=VERSION,
            )
        finally:
            waiting.cancel()
            await listener.close()


def project(settings: Settings) -> None:
    """The projector, until SIGTERM."""
    from projections.engine.projector import Projector
    from projections.registry import PROJECTIONS
    from store.postgres.notifications import EVENTS as EVENTS_CHANNEL
    from store.postgres.notifications import Listener

    async def run() -> None:
        async with core(settings, pool_size=2) as parts:
            listener = Listener(parts.conninfo, EVENTS_CHANNEL)
            await listener.start()
            await runtime.until_signalled(Projector(parts.conninfo, parts.log, listener, PROJECTIONS).run())
            await listener.close()

    runtime.run(run())


def dispatch(settings: Settings) -> None:
    """The dispatcher, until SIGTERM."""
    from commands.handler import Handler
    from store.postgres.notifications import EVENTS as EVENTS_CHANNEL
    from store.postgres.notifications import POLLS, Listener
    from store.tables.agent_gauges import AgentGauges
    from store.tables.build_logs import BuildLogs
    from store.tables.waiting_reasons import WaitingReasons
    from workers.dispatch.dispatcher import Dispatcher

    async def run() -> None:
        async with core(settings, pool_size=4) as parts:
            listener = Listener(parts.conninfo, EVENTS_CHANNEL, POLLS)
            await listener.start()
            dispatcher = Dispatcher(
                parts.conninfo,
                parts.log,
                Handler(parts.log, utcnow),
                listener,
                AgentGauges(parts.pool),
                BuildLogs(parts.pool),
                WaitingReasons(parts.pool),
            )
            await runtime.until_signalled(dispatcher.run())
            await listener.close()

    runtime.run(run())


def work(settings: Settings) -> None:
    """Reactions to events and schedules, until SIGTERM."""
    from commands.handler import Handler
    from integrations.addresses import parse_networks
    from integrations.blobs import open_blobs
    from integrations.checkpoints import CheckpointFolder
    from integrations.outgoing import HttpOutgoing
    from projections.engine.read_your_writes import Waiter
    from projections.registry import PROJECTIONS
    from store.postgres.notifications import EVENTS as EVENTS_CHANNEL
    from store.postgres.notifications import PROJECTED, Listener
    from store.tables.build_logs import BuildLogs
    from store.tables.deliveries import WEBHOOKS
    from store.tables.idempotent_responses import IdempotentResponses
    from workers import known_issues, quarantine, retention
    from workers.audit import Sealer
    from workers.deliveries.messages import Messages
    from workers.deliveries.planner import DeliveryPlanner
    from workers.deliveries.sender import Deliveries
    from workers.deliveries.teams import TeamsSender
    from workers.deliveries.webhooks import WebhookSender
    from workers.flakiness import FlakinessWatch
    from workers.loops.periodic import Schedule, Schedules
    from workers.reactions.dispatcher import ReactionDispatcher
    from workers.reactions.registry import REACTIONS, Tools

    async def run() -> None:
        networks = parse_networks(settings.outgoing_allow)
        async with core(settings, pool_size=POOL_SIZE) as parts, HttpOutgoing(networks) as outgoing:
            listener = Listener(parts.conninfo, EVENTS_CHANNEL, WEBHOOKS, PROJECTED)
            await listener.start()
            tools = Tools(BuildLogs(parts.pool), open_blobs(settings.blobs))
            relay = ReactionDispatcher(parts.pool, parts.log, listener, settings.redis_url, REACTIONS, tools)
            handler = Handler(parts.log, utcnow)
            deleting = retention.Retention(parts.pool, handler, utcnow)
            watch = quarantine.QuarantineWatch(parts.pool, handler, utcnow)
            search = known_issues.KnownIssueSearch(parts.pool, parts.log, handler)
            answers = IdempotentResponses(parts.pool, parts.secrets)
            schedules = Schedules(
                parts.conninfo,
                (
                    Schedule("retention", deleting.sweep, retention.EVERY_S, retention.SOON_S),
                    Schedule("quarantine", watch.sweep, quarantine.EVERY_S),
                    Schedule("known issues", search.sweep, known_issues.EVERY_S),
                    Schedule("old answers", answers.delete_expired, OLD_ANSWERS_EVERY_S),
                ),
            )
            publish = CheckpointFolder(Path(settings.checkpoints_to)).publish if settings.checkpoints_to else None
            sealer = Sealer(parts.conninfo, parts.pool, parts.log, handler, parts.secrets, utcnow, publish)
            messages = Messages(parts.log)
            follower = DeliveryPlanner(parts.pool, parts.log, messages, listener, utcnow)
            waiter = Waiter(parts.pool, listener, PROJECTIONS)
            webhooks = WebhookSender(messages, parts.secrets, outgoing, utcnow)
            teams = TeamsSender(
                parts.pool, parts.log, messages, parts.secrets, outgoing, waiter.wait, settings.base_url.rstrip("/")
            )
            delivering = Deliveries(
                parts.conninfo, parts.pool, handler, {"webhook": webhooks, "teams": teams}, listener, utcnow
            )
            works = (relay.run(), schedules.run(), sealer.run(listener), waiter.run())
            flaky = FlakinessWatch(parts.pool, parts.log, handler)
            await runtime.until_signalled(_together(*works, follower.run(), delivering.run(), flaky.run()))
            await listener.close()

    runtime.run(run())


def migrate(settings: Settings) -> list[str]:
    """Makes the tables that are missing; the names of read models that have to be built from the log."""
    from projections.engine.schemas import begin
    from projections.registry import PROJECTIONS
    from store.migrations import migrate as migrate_store

    migrate_store(settings.database_url)

    async def read_tables() -> list[str]:
        async with await AsyncConnection.connect(settings.database_url, autocommit=True) as connection:
            return [projection.name for projection in await begin(connection, PROJECTIONS)]

    return asyncio.run(read_tables())


async def create_first_admin(settings: Settings) -> str | None:
    """Registers the first admin; the password that was made up for that, None when there was one or it was given.

    Decided on the log, so it does not need a projector.
    """
    from commands.handler import CommandContext, Handler
    from commands.users import register_user

    async with core(settings, pool_size=1) as parts:
        if await parts.log.read(0, 1, ["user.registered"]):
            return None
        password = settings.admin_password or random.token_urlsafe(12)
        await register_user(
            Handler(parts.log, utcnow),
            parts.ids,
            parts.secrets,
            CommandContext("system:first-start"),
            email=settings.admin_email,
            password=password,
            role="admin",
        )
    return None if settings.admin_password else password


async def register_local_node(settings: Settings) -> str | None:
    """The token of this machine's own node; a new one replaces what an earlier start left."""
    from commands.handler import CommandContext, Handler
    from commands.nodes import RegisterNode
    from domain.claims import CLAIM

    token_file = Path(settings.data_dir, "agent", "token")
    async with core(settings, pool_size=1) as parts:
        claim = parts.secrets.claim("node-name", "local")
        if (await parts.log.load_state(CLAIM.at(claim))).owner and token_file.exists():
            return token_file.read_text().strip()
        token = new_token("agt_")
        await Handler(parts.log, utcnow).execute(
            RegisterNode(
                node_id=await parts.ids.draw("nodes"),
                title="local",
                claim=claim,
                token_hash=token_hash(token),
                pool_id=None,
                max_parallel=2,
            ),
            CommandContext("system:first-start"),
        )
        return token


async def _together(*works: Coroutine[None, None, None]) -> None:
    async with asyncio.TaskGroup() as tasks:
        for work in works:
            tasks.create_task(work)
