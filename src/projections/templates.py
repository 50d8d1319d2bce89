"""Read model of pipeline templates. It has the names of secrets; their values are only in the template's stream."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any, Unpack

import msgspec

from domain.core.events import Recorded, copy_fields
from domain.jobs import CheckoutOptions, Configuration, DependencyCache, ShellName
from domain.templates import TemplateCreated, TemplateDeleted, TemplateEvent, TemplateUpdated
from projections.auth import UserRow
from projections.engine.model import Change, Delete, Projection, Row, Rows, Table, changed_columns, row_of
from projections.engine.queries import Window, fetch_all, fetch_column, fetch_one
from projections.jobs import JobRow, columns_of_configuration
from store.postgres.queries import Source

VERSION = 2


class TemplateRow(Row, frozen=True):
    table = Table("pipeline_templates", VERSION, indexes=("(name, id)",))
    id: int
    name: str
    description: str
    setup: list[str]
    command: str
    env: dict[str, str]
    artifacts: list[str]
    secrets: list[str]
    """Names of the secrets."""
    creator_id: int
    created_at: datetime
    updated_at: datetime
    shell: str | None = None
    checkout: dict[str, Any] | None = None
    caches: list[dict[str, Any]] = []


def apply(recorded: Recorded, rows: Rows) -> Iterable[Change]:
    event = recorded.event
    match event:
        case TemplateCreated():
            yield copy_fields(
                TemplateRow,
                event,
                id=event.template_id,
                name=event.title,
                created_at=event.at,
                updated_at=event.at,
                **_configuration_columns(event.configuration),
            )
        case TemplateUpdated():
            template = rows.get(TemplateRow, event.template_id)
            if template is not None:
                yield msgspec.structs.replace(
                    template,
                    **changed_columns(template, event),
                    updated_at=event.at,
                    **({} if event.configuration is None else _configuration_columns(event.configuration)),
                )
        case TemplateDeleted():
            yield Delete(TemplateRow, event.template_id)


def _configuration_columns(configuration: Configuration) -> dict[str, Any]:
    columns = msgspec.structs.asdict(configuration) | columns_of_configuration(configuration)
    del columns["matrix"], columns["needed_secrets"]  # only jobs have these
    return columns


PROJECTION = Projection(
    "templates",
    VERSION,
    (TemplateRow,),
    row_of(TemplateRow, "template_id", TemplateUpdated),
    apply,
    handles=(TemplateEvent,),
)


class TemplateView(msgspec.Struct, frozen=True):
    """A template and the number of jobs that use it."""

    id: int
    name: str
    description: str
    jobs_using: int
    """Number of jobs that use the template."""
    setup: list[str]
    command: str
    env: dict[str, str]
    artifacts: list[str]
    secrets: list[str]
    created_at: datetime
    updated_at: datetime
    creator_id: int
    """Id of the user who created the template. This user may change it."""
    shell: ShellName | None
    checkout: CheckoutOptions | None
    caches: list[DependencyCache]


class NamedTemplate(TemplateView, frozen=True):
    is_by_admin: bool
    """Whether the template's creator is an active admin now."""


_COLUMNS = f"""
    t.id, t.name, t.description, (SELECT count(*) FROM {JobRow.table} j WHERE j.pipeline_template_id = t.id),
    t.setup, t.command, t.env, t.artifacts, t.secrets, t.created_at, t.updated_at, t.creator_id,
    t.shell, t.checkout, t.caches
"""
_VIEW = f"SELECT {_COLUMNS} FROM {TemplateRow.table} t"


async def find(source: Source, template_id: int) -> TemplateView | None:
    return await fetch_one(source, TemplateView, f"{_VIEW} WHERE t.id = %(id)s", {"id": template_id})


async def fetch_project_ids(source: Source, template_id: int) -> list[int]:
    """Returns the ids of the projects that have jobs with this template."""
    query = f"SELECT DISTINCT project_id FROM {JobRow.table} WHERE pipeline_template_id = %(template)s ORDER BY 1"
    return await fetch_column(source, query, {"template": template_id})


async def fetch_named(source: Source, name: str, user_id: int) -> list[NamedTemplate]:
    """Returns up to 100 templates with exactly this name: this user's first, then those of admins, then the others."""
    query = f"""
        SELECT {_COLUMNS}, EXISTS (
            SELECT FROM {UserRow.table} u WHERE u.id = t.creator_id AND u.role = 'admin' AND u.active
        ) AS is_by_admin
        FROM {TemplateRow.table} t WHERE t.name = %(name)s
        ORDER BY t.creator_id = %(user)s DESC, is_by_admin DESC, t.id LIMIT 100
    """
    return await fetch_all(source, NamedTemplate, query, {"name": name, "user": user_id})


async def fetch_page(source: Source, **window: Unpack[Window]) -> list[TemplateView]:
    return await fetch_all(
        source,
        TemplateView,
        f"{_VIEW} WHERE t.id > %(after)s ORDER BY t.id OFFSET %(offset)s LIMIT %(limit)s",
        window,
    )
