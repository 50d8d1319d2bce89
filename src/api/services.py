"""What the controllers work with; made once by the composition root."""

from dataclasses import dataclass
from pathlib import Path

from psycopg_pool import AsyncConnectionPool

from commands.handler import Handler
from integrations.ports import Blobs, Outgoing
from projections.auth import Credentials
from projections.history.past import Past
from projections.jobs import ProjectOfJob
from projections.machinery.waiting import Waiter
from store.agents import AgentGauges
from store.build_logs import BuildLogs
from store.first_answers import FirstAnswers
from store.grouped import Grouped
from store.ids import Ids
from store.listen import Listener
from store.log import EventLog
from store.secrets import Secrets


@dataclass(frozen=True)
class Services:
    pool: AsyncConnectionPool
    log: EventLog
    handler: Handler
    ids: Ids
    secrets: Secrets
    listener: Listener
    waiter: Waiter
    sessions: Grouped[str, Credentials | None]
    project_of_job: ProjectOfJob
    past: Past
    build_logs: BuildLogs
    first_answers: FirstAnswers
    gauges: AgentGauges
    blobs: Blobs
    outgoing: Outgoing
    base_url: str
    spool: Path
    """Folder for uploads in flight."""
    version: str
    build: str
    """The commit that this server was built from; `dev` in a checkout."""
    agent_bundle: bytes
    agent_version: str
    max_parallel_builds: int = 20
