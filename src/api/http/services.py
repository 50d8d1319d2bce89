"""The services that controllers use. Each process makes one `Services` when it starts."""

from collections import Counter
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from pathlib import Path

from psycopg import AsyncConnection
from psycopg_pool import AsyncConnectionPool

from api.http.rate_limits import RateLimits
from api.http.spool import Spool
from commands.handler import Handler
from commands.reports.recording import ReportRecorder
from commands.token_quota import TokenMeter
from commands.waiting_changes import WaitingChanges
from domain.core.errors import Unavailable
from domain.docker_agents import DockerPolicy
from domain.language_model import ModelPolicy
from domain.licenses import License
from integrations.container_ports import ContainerLogs
from integrations.embedding_ports import Embeddings
from integrations.ports import Blobs, Outgoing, Saml
from integrations.source_ports import SourceHosts
from integrations.ticket_ports import TicketHosts
from integrations.vcenter_ports import Vcenters
from projections.auth import Credentials
from projections.engine.read_your_writes import ProjectionWaiter
from projections.jobs import ProjectOfJob
from projections.time_travel.historical_tables import HistoricalConnections
from store.crypto.secrets import Secrets
from store.log.event_log import EventLog
from store.log.ids import Ids
from store.postgres.batch_loader import BatchLoader
from store.postgres.caller_turns import CallerTurns
from store.postgres.notifications import Listener
from store.postgres.paced_turns import PacedTurns
from store.tables.agent_gauges import AgentGauges
from store.tables.build_logs import BuildLogs
from store.tables.idempotent_responses import IdempotentResponses
from store.tables.shared_caches import SharedCaches

AUDIT_PAGES = 2
"""Largest number of pages of the audit trail that a process reads at once, at most one for each user."""
AUDIT_PAGES_OF_USER = 10
"""Largest number of requests for pages of the audit trail, under way or waiting, that one user may have at a process.
"""
MAX_AUDIT_PAGES = 50
"""Largest number of requests for pages of the audit trail, under way or waiting, that all users may have at a process.
"""
REPLAY_REQUESTS = 4
"""Largest number of requests for replays of webhooks that a process handles at once, at most one for each user."""
REPLAY_REQUESTS_OF_USER = 10
"""Largest number of requests for replays of webhooks, under way or waiting, that one user may have at a process."""
ANALYSES = 2
"""Largest number of analyses of tests that a process makes at once, at most one for each user."""
ANALYSES_OF_USER = 10
"""Largest number of analyses of tests, under way or waiting, that one user may have at a process."""
MAX_ANALYSES = 100
"""Largest number of analyses of tests, under way or waiting, that all users may have at a process."""
CONTAINER_LOGS = 4
"""Largest number of logs of containers that a process reads at once, at most one for each user. Requests with
`stream=true` do not count.
"""
CONTAINER_LOGS_OF_USER = 10
"""Largest number of reads of logs of containers, under way or waiting, that one user may have at a process."""


@dataclass(frozen=True)
class Services:
    pool: AsyncConnectionPool
    log: EventLog
    handler: Handler
    ids: Ids
    reports: ReportRecorder
    secrets: Secrets
    listener: Listener
    waiter: ProjectionWaiter
    sessions: BatchLoader[str, Credentials | None]
    project_of_job: ProjectOfJob
    past: HistoricalConnections
    build_logs: BuildLogs
    mask_secrets: Callable[[Sequence[str], Sequence[str]], list[str]]
    """Function that takes secrets and lines. Returns the lines with `***` in place of each secret, as agents mask them.
    """
    idempotent_responses: IdempotentResponses
    gauges: AgentGauges
    blobs: Blobs
    outgoing: Outgoing
    saml: Saml
    source_hosts: SourceHosts
    ticket_hosts: TicketHosts
    docker: DockerPolicy
    container_logs: ContainerLogs
    vcenters: Vcenters
    embeddings: Embeddings | None
    """Model for semantic search; None if the server has none."""
    model_policy: ModelPolicy
    tokens: TokenMeter
    rate_limits: RateLimits
    waiting_changes: WaitingChanges
    streams_per_user: int
    """Largest number of streams that a user may have open at this process; 0 for no limit."""
    session_idle: timedelta
    """Time without a request after which a session ends; zero for no such limit."""
    cors_origins: frozenset[str]
    """Origins whose pages may call the API from browsers."""
    base_url: str
    sends_mail: bool
    """Whether a mail server is set, so that links to set a password are mailed."""
    spool: Spool
    artifact_quota: int
    """Largest number of bytes of artifacts that one project may have."""
    caches: SharedCaches
    cache_quota: int
    """Largest total size in bytes of those shared caches of a project that equally trusted builds have saved. Builds of
    forks, builds of admins and builds of other members have separate caches, each group with this limit.
    """
    cache_limit: int
    """Largest number of bytes of one shared cache; 0 if the server keeps none."""
    disks: Mapping[str, Path]
    """Kind of contents (`data folder` or `artifacts`) -> folder to which the server writes them."""
    version: str
    build: str
    """Commit that the server was built from, or its version if the commit is not known."""
    agent_bundle: bytes
    agent_version: str
    license: License
    max_parallel_builds: int = 20
    audit_turns: CallerTurns = field(
        default_factory=lambda: CallerTurns(
            AUDIT_PAGES, AUDIT_PAGES_OF_USER, MAX_AUDIT_PAGES, "pages of the audit trail"
        )
    )
    replay_turns: CallerTurns = field(
        default_factory=lambda: CallerTurns(REPLAY_REQUESTS, REPLAY_REQUESTS_OF_USER, kind="requests for replays")
    )
    analysis_turns: CallerTurns = field(
        default_factory=lambda: CallerTurns(ANALYSES, ANALYSES_OF_USER, MAX_ANALYSES, "analyses of tests")
    )
    """Limits the slow reads that run at once. A slow read, such as the health of all tests, takes tenths of a second
    and more in large projects.
    """
    questions: Counter[int] = field(default_factory=Counter)
    """User -> number of their requests to the assistant that this process handles."""
    question_turns: PacedTurns = field(default_factory=PacedTurns)
    """Lets users record questions to the assistant one after the other, so that many questions at once do not hold up
    other requests.
    """
    container_log_turns: CallerTurns = field(
        default_factory=lambda: CallerTurns(CONTAINER_LOGS, CONTAINER_LOGS_OF_USER, kind="reads of logs")
    )

    async def wait_for_missing(self, connection: AsyncConnection | None = None) -> None:
        """Waits until the read models show the whole log. Call this if an object is not in the read models, since it
        may have been created a moment ago. Raises Unavailable if the wait takes too long.

        With an open `connection`, raises Unavailable at once if the read models are behind: waiting would need a second
        connection of the pool.
        """
        log = self.log if connection is None else self.log.on(connection)
        head = await log.read_head()
        if self.waiter.position < head and (connection is not None or not await self.waiter.wait_reached(head)):
            raise Unavailable("Not shown yet, or not there: the read models are behind the log. Try again.")
