"""The parts of a reaction, and the services that reactions use. `registry.py` lists the reactions."""

from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass, field
from typing import Literal, get_args

from domain.core.events import Event, Recorded
from integrations.ports import Blobs, Mailer
from integrations.source_ports import SourceHosts
from store.crypto.secrets import Secrets
from store.log.event_log import EventLog
from store.tables.build_logs import BuildLogs
from store.tables.reactions import DEFAULT_RETRIES, RetryPolicy
from store.tables.shared_caches import SharedCaches
from workers.changes import ChangeEvaluator
from workers.docker_agents import DockerOperator
from workers.evals import EvalRunner
from workers.explanations import BuildExplainer
from workers.gitops import PipelineSyncer
from workers.inquiries import InquiryAnswerer
from workers.reactions.host_calls import HostCalls
from workers.reactions.statuses import BuildStates
from workers.tickets import TicketWriter
from workers.vcenter import VcenterOperator


@dataclass(frozen=True)
class Tools:
    """Services that reactions use: stores of data that is not in the log, outside systems, and a callback to report
    progress.
    """

    build_logs: BuildLogs
    caches: SharedCaches
    blobs: Blobs
    log: EventLog
    secrets: Secrets
    mailer: Mailer | None = None
    """Sends the mails. Without a mail server, prints the links of the mails if somebody reads the output of the
    process, and is None otherwise.
    """
    base_url: str = ""
    """Beginning of the links in mails and commit statuses."""
    source_hosts: SourceHosts | None = None
    """Opens the repositories in which commit statuses are set; None if this process sets no statuses."""
    build_states: BuildStates | None = None
    """Loads the builds whose statuses are set; None if this process sets no statuses."""
    host_calls: HostCalls = field(default_factory=HostCalls)
    """Limits how many calls this process makes to each source code host."""
    on_progress: Callable[[str], None] = lambda text: None
    """Callback for a short text about the progress of a long reaction. The text must contain no data of a project,
    since everybody can read it.
    """
    changes: ChangeEvaluator | None = None
    """Starts the builds of changes; None in a process that evaluates no changes."""
    pipelines: PipelineSyncer | None = None
    """Syncs jobs with pipelines files; None in a process that evaluates no changes."""
    tickets: TicketWriter | None = None
    """Writes tickets for failures; None in a process that writes no tickets."""
    docker: DockerOperator | None = None
    """Operates the containers of Docker agents; None in a process that has nothing to do with them."""
    vcenters: VcenterOperator | None = None
    """Carries out operations on vCenters; None in a process that carries out none."""

    explainer: BuildExplainer | None = None
    """Explains failed builds; None in a process that explains none."""
    evals: EvalRunner | None = None
    """Runs evaluations; None in a process that runs none."""
    inquiries: InquiryAnswerer | None = None
    """Answers inquiries; None in a process that answers none."""

    def count_deleted(self, deleted: int, total: int) -> None:
        self.on_progress(f"{deleted:,} of {total:,} artifacts deleted")


class RetryLater(Exception):
    """Raised by a reaction that must be tried again after some seconds, for example because an outside system answered
    with `Retry-After`. In the first day after the event, such a try does not count as failed.
    """

    def __init__(self, seconds: float, why: str) -> None:
        super().__init__(why)
        self.seconds = seconds


Queue = Literal[
    "deletions",
    "mails",
    "statuses",
    "changes",
    "gitops",
    "tickets",
    "docker",
    "vcenter",
    "explanations",
    "evals",
    "inquiries",
    "analyses",
]
QUEUES: tuple[Queue, ...] = get_args(Queue)
"""Names of the queues. Reactions of one queue can delay each other. Reactions of different queues cannot."""
QUEUES_WITH_TURNS: tuple[Queue, ...] = ("changes", "gitops", "tickets", "explanations", "analyses")
"""Queues in which projects take turns, since the hooks, failing builds or AI jobs of one project can fill them: a
process runs a few reactions of each project at the same time. The other reactions of the project stay due, and use up
no slots and no tries.
"""


@dataclass(frozen=True)
class Reaction:
    name: str
    event: type[Event]
    run: Callable[[Event, Tools], Awaitable[None]]
    queue: Queue
    time_limit_s: float
    """Seconds after which a try is cancelled, and counts as failed."""
    retries: RetryPolicy = DEFAULT_RETRIES
    repeats_old: bool = True
    """Whether `testhide repair` makes the reaction begin with the first event again. False if that would do harm,
    because the reaction's effect depends on settings that may have changed since the event, or because people outside
    would notice the repetition.
    """
    select: Callable[[Sequence[Recorded], Tools], Awaitable[Sequence[Recorded]]] | None = None
    """Function that selects the events of a batch for which the reaction may have something to do; None selects all
    events. For the other events, no row is stored and no task is run. The function may make only a few queries for a
    whole batch.
    """
