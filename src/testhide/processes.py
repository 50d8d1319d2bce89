"""The composition root: assembles each process of the server, with the adapters from `testhide.adapters`.

Each function imports its heavy libraries itself, so that a process loads only what it runs.
"""

import asyncio
import contextlib
import gc
from collections.abc import AsyncIterator
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING

from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool

from domain.registry import EVENTS, UPCASTERS
from store.clock import utcnow
from store.crypto.secrets import Secrets
from store.key_ring.ring import KeyRing
from store.log.append import GroupCommit
from store.log.codec import EventMapper
from store.log.event_log import EventLog
from store.log.ids import Ids
from store.postgres.cancellation import cancel_and_wait
from store.postgres.connection_settings import with_keepalive
from store.postgres.notifications import AGENT_NOTIFICATIONS, BUILD_LOGS, POLLS, PROJECTED, ROOT_KEYS, SEALS, Listener
from store.postgres.notifications import EVENTS as EVENTS_CHANNEL
from store.postgres.queries import QueryConnection
from testhide import runtime
from testhide.adapters import (
    blob_store,
    container_logs,
    docker_hosts,
    docker_policy,
    embeddings,
    make_outgoing,
    model_policy,
    source_hosts,
    ticket_hosts,
    vcenters,
)
from testhide.operator_errors import Fault
from testhide.settings import Settings
from testhide.start_checks import open_ring, refuse_lost_tables, refuse_older_schema, refuse_outage, refuse_risks
from testhide.version import VERSION, find_build

if TYPE_CHECKING:
    from api.app import Application
    from api.http.services import Services
    from commands.reports.rule_book import RuleBook

POOL_SIZE = 10
"""Largest number of connections for queries in a process that answers HTTP or runs many workers."""
MAX_IDLE_S = 10.0
"""Seconds without use after which a process closes a connection for queries. The process closes one connection at a
time, and keeps the last one. A connection takes PostgreSQL up to 5 MB, and opening one takes some 5 ms.
"""


@dataclass(frozen=True)
class Core:
    """The event log, and other objects that every process needs."""

    conninfo: str
    pool: AsyncConnectionPool
    log: EventLog
    ids: Ids
    secrets: Secrets
    ring: KeyRing


@contextlib.asynccontextmanager
async def core(
    settings: Settings, pool_size: int = POOL_SIZE, *, before_migration: bool = False
) -> AsyncIterator[Core]:
    """Connect to the database until the block ends. Raises Fault in four cases:

    - The database cannot be reached.
    - The secret key does not open the keys in the database.
    - PostgreSQL may lose acknowledged writes. `settings.unsafe` allows this.
    - Tables are lost, or are those of an older release. `before_migration` allows this.
    """
    mapper = EventMapper(EVENTS, UPCASTERS)
    conninfo = with_keepalive(settings.database_url)
    commit = GroupCommit(conninfo)
    ring = KeyRing(conninfo, settings.secret_keys, commit.wait_until_written)
    async with AsyncConnectionPool[AsyncConnection](
        conninfo,
        connection_class=QueryConnection,
        min_size=1,
        max_size=pool_size,
        kwargs={"autocommit": True},
        max_idle=MAX_IDLE_S,
        timeout=5,
        open=False,
        name="queries",
    ) as pool:
        log = EventLog(pool, commit, mapper, ring.secrets)
        try:
            with refuse_outage():
                if not settings.unsafe:
                    await refuse_risks(pool)
                await open_ring(ring, pool, log)
                if not before_migration:
                    await refuse_older_schema(pool)
                    await refuse_lost_tables(pool)
        except BaseException:
            await ring.close()
            raise
        try:
            yield Core(conninfo, pool, log, Ids(pool), ring.secrets, ring)
        finally:
            try:
                await commit.close()
            finally:
                await ring.close()  # also if this process is cancelled while it waits for the last appends


@contextlib.asynccontextmanager
async def _listening(parts: Core, *channels: str) -> AsyncIterator[Listener]:
    listener = Listener(parts.conninfo, ROOT_KEYS, *channels)
    with parts.ring.notified_by(listener):
        await listener.start()
        try:
            yield listener
        finally:
            await listener.close()


@cache
def application() -> "Application":
    """Returns the HTTP application of this process, without services. Makes it at the first call, which takes 0.2 s of
    CPU time. Processes that are forked after the first call share the application.
    """
    from api.app import make_app

    return make_app(VERSION)


def serve(settings: Settings) -> None:
    """Run the HTTP API until SIGTERM. Raises Fault if the database, the licence file, the blob store or a sequence of
    ids cannot be used.
    """
    from testhide import http_server

    async def run() -> None:
        # Entered here, since Granian would turn a Fault into a traceback.
        async with api_services(settings) as services:
            app = application()
            app.services = contextlib.nullcontext(services)
            from integrations.addresses import parse_networks

            proxies = parse_networks(settings.trusted_proxies)
            limit = settings.connections_per_address
            # What is loaded by now stays. A full collection of it would hold up all requests for some 0.13 s.
            gc.freeze()
            await http_server.serve(app, settings.host, settings.port, runtime.signalled(), proxies, limit)

    runtime.run(run())


@contextlib.asynccontextmanager
async def api_services(settings: Settings) -> "AsyncIterator[Services]":
    """Yield the services that controllers use, and close them when the block ends. Raises Fault if the database or the
    licence file cannot be used, if the blob store belongs to another database, or if a sequence of ids would give an id
    again.
    """
    from agent.build.masking import Masker
    from agent.bundle import build_zipapp
    from api.http.rate_limits import RateLimits
    from api.http.services import Services
    from api.http.spool import Spool
    from commands.handler import Handler
    from commands.reports.reading_pool import ReadingPool
    from commands.reports.recording import ReportRecorder
    from commands.token_quota import TokenMeter
    from commands.waiting_changes import WaitingChanges
    from integrations.saml import SamlService
    from integrations.token_buckets import RedisTokenBuckets
    from projections.auth import fetch_session_credentials
    from projections.engine.read_your_writes import ProjectionWaiter
    from projections.ids_in_use import describe_behind, find_sequences_behind
    from projections.jobs import ProjectOfJob
    from projections.registry import PROJECTIONS
    from projections.report_lookups import ReportLookups
    from projections.time_travel.historical_tables import HistoricalConnections
    from store.postgres.batch_loader import BatchLoader
    from store.tables import agent_gauges, build_logs, idempotent_responses
    from store.tables.shared_caches import SharedCaches
    from testhide.artifact_store import refuse_other_store
    from testhide.licenses import load_license

    license = load_license(settings)
    spool = Spool(Path(settings.data_dir, "spool"))
    spool.folder.mkdir(parents=True, exist_ok=True, mode=0o700)
    spool.remove_abandoned()
    async with (
        core(settings) as parts,
        make_outgoing(settings) as outgoing,
        _listening(parts, EVENTS_CHANNEL, PROJECTED, AGENT_NOTIFICATIONS, BUILD_LOGS) as listener,
    ):
        blobs = blob_store(settings)
        with refuse_outage():
            if behind := await find_sequences_behind(parts.pool):
                raise Fault(f"The {describe_behind(behind)}.")
            await refuse_other_store(parts.pool, blobs, settings.blobs)
        waiter = ProjectionWaiter(parts.pool, listener, PROJECTIONS)
        reading = ReadingPool()
        handler = Handler(parts.log, utcnow)
        reports = ReportRecorder(parts.log, parts.ids, ReportLookups(parts.pool), reading, waiter.wait_reached)
        following = asyncio.create_task(waiter.run())
        warming = asyncio.create_task(_warm_up(reports.rule_book, parts.log))
        buckets = RedisTokenBuckets(settings.redis_url)
        model = embeddings(settings)
        try:
            yield Services(
                pool=parts.pool,
                log=parts.log,
                handler=handler,
                ids=parts.ids,
                reports=reports,
                secrets=parts.secrets,
                listener=listener,
                waiter=waiter,
                sessions=BatchLoader(parts.pool, fetch_session_credentials),
                project_of_job=ProjectOfJob(parts.pool),
                past=HistoricalConnections(parts.conninfo),
                build_logs=build_logs.BuildLogs(parts.pool),
                mask_secrets=lambda secrets, lines: list(map(Masker(secrets).mask_text, lines)),
                idempotent_responses=idempotent_responses.IdempotentResponses(parts.pool, parts.secrets),
                gauges=agent_gauges.AgentGauges(parts.pool),
                blobs=blobs,
                outgoing=outgoing,
                saml=SamlService(settings.public_url),
                source_hosts=source_hosts(settings, outgoing, parts.secrets),
                ticket_hosts=ticket_hosts(outgoing, parts.secrets),
                docker=docker_policy(settings),
                container_logs=container_logs(settings, parts.secrets),
                vcenters=vcenters(settings, outgoing, parts.secrets),
                embeddings=model,
                model_policy=model_policy(settings),
                tokens=TokenMeter(parts.log, handler, utcnow),
                rate_limits=RateLimits(
                    buckets, parts.secrets, settings.requests_per_token, settings.requests_per_address
                ),
                waiting_changes=WaitingChanges(parts.pool),
                streams_per_user=settings.streams_per_user,
                session_idle=timedelta(minutes=settings.session_idle_minutes),
                cors_origins=frozenset(settings.origins),
                base_url=settings.public_url,
                sends_mail=bool(settings.smtp_url),
                spool=spool,
                artifact_quota=settings.artifact_quota,
                caches=SharedCaches(parts.pool),
                cache_quota=settings.cache_quota,
                cache_limit=min(settings.cache_limit, settings.cache_quota),
                disks={"data folder": spool.folder}
                | ({"artifacts": folder} if (folder := settings.blobs_folder) else {}),
                version=VERSION,
                build=settings.build or find_build(),
                agent_bundle=build_zipapp(),
                agent_version=VERSION,
                license=license,
            )
        finally:
            await cancel_and_wait(following, warming)
            reading.close()
            if model is not None:
                model.close()
            await buckets.close()


async def _warm_up(rule_book: "RuleBook", log: EventLog) -> None:
    """Reads the known issues from the log, which may be long. So the first report after a start need not wait until
    they are read.
    """
    from workers.loops.outages import tolerate_outages

    async with tolerate_outages("the first reading of known issues"):
        await rule_book.follow(log)


def project(settings: Settings) -> None:
    """Run the projector until SIGTERM. Raises Fault if the database cannot be used."""
    from projections.engine.projector import Projector
    from projections.registry import PROJECTIONS

    async def run() -> None:
        async with core(settings, pool_size=2) as parts, _listening(parts, EVENTS_CHANNEL) as listener:
            await runtime.until_signalled(Projector(parts.conninfo, parts.log, listener, PROJECTIONS).run())

    runtime.run(run())


def dispatch(settings: Settings) -> None:
    """Run the dispatcher until SIGTERM. Raises Fault if the database cannot be used."""
    from commands.handler import Handler
    from store.tables import agent_gauges, build_logs, waiting_reasons
    from workers.dispatch.dispatcher import Dispatcher

    async def run() -> None:
        async with core(settings, pool_size=4) as parts, _listening(parts, EVENTS_CHANNEL, POLLS) as listener:
            pool, log = parts.pool, parts.log
            gauges, logs = agent_gauges.AgentGauges(pool), build_logs.BuildLogs(pool)
            reasons = waiting_reasons.WaitingReasons(pool)
            handler = Handler(log, utcnow)
            dispatcher = Dispatcher(parts.conninfo, log, handler, listener, gauges, logs, reasons, parts.ids)
            await runtime.until_signalled(dispatcher.run())

    runtime.run(run())


def work(settings: Settings) -> None:
    """Run reactions, deliveries, periodic work and the sealing of the log until SIGTERM. Raises Fault if the database
    cannot be used, or if the blob store belongs to another database.
    """
    from commands.handler import Handler
    from integrations.checkpoints import CheckpointFolder
    from projections.engine.read_your_writes import ProjectionWaiter
    from projections.registry import PROJECTIONS
    from store.tables.deliveries import DELIVERIES_CHANNEL
    from testhide.artifact_store import refuse_other_store
    from testhide.periodic_work import make_schedules
    from testhide.reaction_tools import make_answerer, make_tools
    from workers.deliveries.messages import MessageBuilder
    from workers.deliveries.planner import DeliveryPlanner
    from workers.deliveries.sender import DeliverySender
    from workers.deliveries.teams import TeamsSender
    from workers.deliveries.webhooks import WebhookSender
    from workers.docker_agents import DockerOperator
    from workers.docker_watch import DockerWatch
    from workers.flakiness import FlakinessWatch
    from workers.reactions.reaction_dispatcher import ReactionDispatcher
    from workers.reactions.registry import REACTIONS
    from workers.sealer import Sealer
    from workers.semantic_index import SemanticIndex
    from workers.vcenter import VcenterOperator

    async def run() -> None:
        async with (
            core(settings) as parts,
            make_outgoing(settings) as outgoing,
            _listening(parts, EVENTS_CHANNEL, PROJECTED, DELIVERIES_CHANNEL, SEALS) as listener,
        ):
            pool, log, secrets = parts.pool, parts.log, parts.secrets
            handler = Handler(log, utcnow)
            waiter = ProjectionWaiter(pool, listener, PROJECTIONS)
            machines = VcenterOperator(
                log, handler, vcenters(settings, outgoing, secrets), secrets, settings.public_url, utcnow
            )
            answerer = make_answerer(settings, parts, handler, waiter)
            schedules = make_schedules(parts, handler, outgoing, waiter, settings.public_url, machines, answerer)

            blobs = blob_store(settings)
            with refuse_outage():
                await refuse_other_store(pool, blobs, settings.blobs)
            containers = docker_hosts(settings, secrets)
            operator = DockerOperator(containers, log, handler, secrets, utcnow, docker_policy(settings))
            tools = make_tools(settings, parts, outgoing, handler, waiter, blobs, operator, machines, answerer)
            reactions = ReactionDispatcher(pool, log, listener, settings.redis_url, REACTIONS, tools)
            folder = CheckpointFolder(Path(settings.checkpoints_to)) if settings.checkpoints_to else None
            sealer = Sealer(parts.conninfo, pool, log, handler, secrets, utcnow, folder)

            messages = MessageBuilder(log)
            planner = DeliveryPlanner(pool, log, messages, listener, utcnow)
            webhooks = WebhookSender(messages, secrets, outgoing, utcnow)
            teams = TeamsSender(pool, log, messages, secrets, outgoing, waiter.wait, settings.base_url.rstrip("/"))
            sender = DeliverySender(
                parts.conninfo, pool, handler, {"webhook": webhooks, "teams": teams}, listener, utcnow
            )
            watch = DockerWatch(parts.conninfo, pool, log, containers, operator)
            index = SemanticIndex(pool, log, embeddings(settings))
            works = (reactions, schedules, planner, sender, FlakinessWatch(pool, log, handler), watch, index, waiter)
            try:
                await runtime.until_signalled(sealer.run(listener), *(work.run() for work in works))
            finally:
                await answerer.writer.close()

    runtime.run(run())
