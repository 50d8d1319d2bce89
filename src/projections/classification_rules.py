"""Read model of the classification rules of projects, in all their versions."""

from collections.abc import Iterable
from datetime import datetime
from typing import Any

import msgspec

from domain.classification_rules import ClassificationRule, ClassificationRulesSet
from domain.core.events import Recorded
from domain.projects import ProjectDeleted
from projections.engine.model import Change, DeleteWhere, Projection, Row, Rows, Table
from projections.engine.queries import fetch_one
from store.postgres.queries import Source

VERSION = 1


class RulesVersionRow(Row, frozen=True):
    table = Table("classification_rules", VERSION, key=("project_id", "version"), indexes=("(project_id)",))
    project_id: int
    version: int
    rules: list[dict[str, Any]]
    set_at: datetime

    @property
    def parsed(self) -> list[ClassificationRule]:
        return msgspec.convert(self.rules, list[ClassificationRule])


def apply(recorded: Recorded, rows: Rows) -> Iterable[Change]:
    event = recorded.event
    match event:
        case ClassificationRulesSet():
            rules = msgspec.to_builtins(event.rules)
            yield RulesVersionRow(event.project_id, event.version, rules, event.at)
        case ProjectDeleted():
            yield DeleteWhere(RulesVersionRow, "project_id", event.project_id)


PROJECTION = Projection(
    "classification_rules",
    VERSION,
    (RulesVersionRow,),
    lambda recorded: (),
    apply,
    handles=(ClassificationRulesSet, ProjectDeleted),
)


async def find_newest(source: Source, project_id: int) -> RulesVersionRow | None:
    query = f"SELECT * FROM {RulesVersionRow.table} WHERE project_id = %(project)s ORDER BY version DESC LIMIT 1"
    return await fetch_one(source, RulesVersionRow, query, {"project": project_id})


async def find_version(source: Source, project_id: int, version: int) -> RulesVersionRow | None:
    query = f"SELECT * FROM {RulesVersionRow.table} WHERE project_id = %(project)s AND version = %(version)s"
    return await fetch_one(source, RulesVersionRow, query, {"project": project_id, "version": version})
