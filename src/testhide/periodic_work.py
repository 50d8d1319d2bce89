"""Assembles the periodic work of `testhide work`."""

from typing import TYPE_CHECKING

from commands.handler import Handler
from integrations.ports import Outgoing
from integrations.saml import SamlService
from projections.engine.read_your_writes import ProjectionWaiter
from projections.registry import PROJECTIONS
from store.clock import utcnow
from store.tables.idempotent_responses import IdempotentResponses
from workers import (
    identity_providers,
    inquiries,
    known_issues,
    quarantine,
    read_models,
    retention,
    time_tables,
    unused_tables,
    vcenter_watch,
)
from workers.inquiries import InquiryAnswerer
from workers.loops.periodic import Schedule, Schedules
from workers.vcenter import VcenterOperator

if TYPE_CHECKING:
    from testhide.processes import Core

RESPONSE_CLEANUP_INTERVAL_S = 60.0
"""Seconds between two deletions of expired idempotent responses."""


def make_schedules(
    parts: "Core",
    handler: Handler,
    outgoing: Outgoing,
    waiter: ProjectionWaiter,
    public_url: str,
    vcenters: VcenterOperator,
    answerer: InquiryAnswerer,
) -> Schedules:
    """Return the periodic work, which one process does on behalf of all. `public_url` is the URL of the server."""
    pool, log, secrets = parts.pool, parts.log, parts.secrets
    deletion = retention.Retention(pool, log, handler, utcnow)
    expiry = quarantine.QuarantineWatch(pool, handler, utcnow)
    saml = SamlService(public_url)
    metadata = identity_providers.MetadataRefresh(pool, handler, outgoing, saml)
    search = known_issues.KnownIssueSearch(pool, log, handler)
    scheduled = time_tables.TimeTableClock(pool, handler, parts.ids, secrets, utcnow)
    comparison = read_models.ReadModelCheck(parts.conninfo, pool, log, waiter)
    unused = unused_tables.UnusedTables(pool, log, PROJECTIONS, utcnow)
    machines = vcenter_watch.VcenterWatch(pool, log, handler, parts.ids, vcenters)
    responses = IdempotentResponses(pool, secrets)
    return Schedules(
        parts.conninfo,
        (
            Schedule("retention", deletion.sweep, retention.INTERVAL_S, retention.BUSY_INTERVAL_S),
            Schedule("quarantine", expiry.sweep, quarantine.INTERVAL_S),
            *(
                Schedule(name, sweep, read_models.INTERVAL_S, read_models.ALARMED_INTERVAL_S)
                for name, sweep in (
                    ("read models", comparison.sweep),
                    ("sequences", comparison.sweep_sequences),
                    ("endpoints", comparison.sweep_endpoints),
                )
            ),
            Schedule("unused tables", unused.sweep, unused_tables.INTERVAL_S),
            Schedule("identity providers", metadata.sweep, identity_providers.INTERVAL_S),
            Schedule("known issues", search.sweep, known_issues.INTERVAL_S),
            Schedule("vCenters", machines.sync_all, vcenter_watch.SYNC_INTERVAL_S),
            Schedule("operations on vCenters", machines.end_given_up, vcenter_watch.CHECK_INTERVAL_S),
            Schedule("inquiries", answerer.fail_overdue, inquiries.SWEEP_INTERVAL_S),
            Schedule("time tables", scheduled.sweep, time_tables.INTERVAL_S),
            Schedule("old answers", responses.delete_expired, RESPONSE_CLEANUP_INTERVAL_S),
        ),
    )
