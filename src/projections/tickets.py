"""Read model of tickets whose failures have not stopped: a row for each ticket and each job in which its failures still
occur.
"""

from collections.abc import Iterable
from datetime import datetime

from domain import tickets
from domain.core.events import Recorded
from domain.jira import JiraIntegrationDeleted
from domain.jobs import JobDeleted
from domain.projects import ProjectDeleted
from projections.engine.model import Change, Delete, DeleteWhere, Int, Projection, Row, Rows, Table, no_rows
from projections.engine.queries import fetch_all
from store.postgres.queries import Source

VERSION = 1


class FailingTicketRow(Row, frozen=True):
    table = Table("failing_tickets", VERSION, key=("ticket", "job_id"), indexes=("(job_id)", "(project_id)"))
    ticket: str
    job_id: Int
    jira_id: int
    project_id: int
    cause: str
    build_id: int
    """Id of the build whose failure was last written to the ticket."""
    written_at: datetime


def apply(recorded: Recorded, rows: Rows) -> Iterable[Change]:
    event = recorded.event
    match event:
        case tickets.TicketCreated() | tickets.TicketRecurred():
            yield FailingTicketRow(
                tickets.ticket_id(event.jira_id, event.project_id, event.cause),
                event.job_id,
                event.jira_id,
                event.project_id,
                event.cause,
                event.build_id,
                event.at,
            )
        case tickets.TicketStopped():
            key = tickets.ticket_id(event.jira_id, event.project_id, event.cause)
            yield Delete(FailingTicketRow, key, event.job_id)
        case JobDeleted():
            yield DeleteWhere(FailingTicketRow, "job_id", event.job_id)
        case ProjectDeleted():
            yield DeleteWhere(FailingTicketRow, "project_id", event.project_id)
        case JiraIntegrationDeleted():
            yield DeleteWhere(FailingTicketRow, "jira_id", event.jira_id)


PROJECTION = Projection(
    "tickets",
    VERSION,
    (FailingTicketRow,),
    no_rows,
    apply,
    handles=(
        *(tickets.TicketCreated, tickets.TicketRecurred, tickets.TicketStopped),
        *(JobDeleted, ProjectDeleted, JiraIntegrationDeleted),
    ),
)


async def fetch_failing(source: Source, job_id: int) -> list[FailingTicketRow]:
    """Returns the tickets whose failures still occur in a job."""
    query = f"SELECT * FROM {FailingTicketRow.table} WHERE job_id = %(job)s ORDER BY ticket"
    return await fetch_all(source, FailingTicketRow, query, {"job": job_id})
