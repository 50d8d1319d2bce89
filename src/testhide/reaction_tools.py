"""Assembles the services that the reactions of `testhide work` use."""

from datetime import timedelta
from typing import TYPE_CHECKING

from commands.handler import Handler
from commands.token_quota import TokenMeter
from integrations.ports import Blobs, Outgoing
from projections.engine.read_your_writes import ProjectionWaiter
from store.clock import utcnow
from store.tables.build_logs import BuildLogs
from store.tables.shared_caches import SharedCaches
from testhide.adapters import language_model, mailer, model_policy, source_hosts, ticket_hosts
from testhide.settings import Settings
from workers.changes import ChangeEvaluator
from workers.docker_agents import DockerOperator
from workers.evals import EvalRunner
from workers.explanations import BuildExplainer
from workers.gitops import PipelineSyncer
from workers.inquiries import InquiryAnswerer
from workers.language_model import AnswerWriter
from workers.reactions.reaction import Tools
from workers.reactions.statuses import BuildStates
from workers.tickets import TicketWriter
from workers.vcenter import VcenterOperator

if TYPE_CHECKING:
    from testhide.processes import Core


def make_answerer(settings: Settings, parts: "Core", handler: Handler, waiter: ProjectionWaiter) -> InquiryAnswerer:
    """Return the answerer of inquiries. Raises Fault if the library of the language model is not installed."""
    writer = AnswerWriter(
        model_policy(settings),
        language_model(settings),
        TokenMeter(parts.log, handler, utcnow),
        utcnow,
        timedelta(seconds=settings.ai_timeout),
    )
    return InquiryAnswerer(parts.pool, parts.log, handler, waiter.wait_reached, utcnow, writer)


def make_tools(
    settings: Settings,
    parts: "Core",
    outgoing: Outgoing,
    handler: Handler,
    waiter: ProjectionWaiter,
    blobs: Blobs,
    containers: DockerOperator,
    machines: VcenterOperator,
    answerer: InquiryAnswerer,
) -> Tools:
    pool, log, secrets = parts.pool, parts.log, parts.secrets
    hosts = source_hosts(settings, outgoing, secrets)
    trackers = ticket_hosts(outgoing, secrets)
    base_url = settings.base_url.rstrip("/")
    return Tools(
        BuildLogs(pool),
        SharedCaches(pool),
        blobs,
        log,
        secrets,
        mailer(settings),
        settings.public_url,
        hosts,
        BuildStates(log, pool, waiter.wait_reached),
        changes=ChangeEvaluator(pool, log, handler, parts.ids, secrets, hosts, waiter.wait_reached),
        pipelines=PipelineSyncer(pool, log, handler, parts.ids, hosts, waiter.wait_reached),
        tickets=TicketWriter(pool, log, handler, trackers, waiter.wait_reached, base_url, utcnow),
        docker=containers,
        vcenters=machines,
        explainer=BuildExplainer(pool, log, handler, BuildLogs(pool)),
        evals=EvalRunner(log, handler, answerer.writer),
        inquiries=answerer,
    )
