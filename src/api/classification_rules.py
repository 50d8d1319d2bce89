"""Classification rules of a project: an ordered list of patterns that classify failures without a known issue."""

from datetime import datetime
from typing import Annotated

import msgspec
from litestar import Controller, get, put
from msgspec import Meta

from api.http.permissions import CAN_READ, CAN_WRITE
from api.http.request_context import RequestContext
from api.projects import find_visible_project
from commands.classification_rules import SetClassificationRules
from domain.classification_rules import MAX_RULES, ClassificationRule
from projections import classification_rules
from store.postgres.queries import Source


class NewClassificationRules(msgspec.Struct):
    """The rules of a project, in the order in which they are tried."""

    rules: Annotated[list[ClassificationRule], Meta(max_length=MAX_RULES)]
    """All rules: the list replaces the present one. An empty list switches the rules off."""
    version: Annotated[int, Meta(ge=0, le=2**53)] | None = None
    """Version on which the change is based. If the rules have another version by now, the answer is 409. If `version`
    is left out, the rules are replaced in any case.
    """


class ClassificationRulesView(msgspec.Struct):
    project_id: int
    version: int
    """Version of the list, from 1; each change makes a new one. 0 if the project has never had rules."""
    rules: list[ClassificationRule]
    """Rules in the order in which they are tried: the first one that matches classifies the failure."""
    set_at: datetime | None
    """Time of the last change; null if there was none."""


class ClassificationRuleController(Controller):
    path = "/projects/{project_id:int}/classification-rules"
    tags = ["Known issues"]

    @get(guards=[CAN_READ])
    async def get_classification_rules(self, ctx: RequestContext, project_id: int) -> ClassificationRulesView:
        """Returns the classification rules of a project."""
        async with ctx.reading() as connection:
            await find_visible_project(ctx, project_id)
            return await fetch_rules(connection, project_id)

    @put(guards=[CAN_WRITE])
    async def set_classification_rules(
        self, ctx: RequestContext, project_id: int, data: NewClassificationRules
    ) -> ClassificationRulesView:
        """Replaces the classification rules of a project. In reports that are recorded from now on, the first rule that
        matches classifies a failure that no known issue matches. Older failures stay as they are.
        """
        await ctx.must_access(project_id)
        await ctx(SetClassificationRules(project_id, data.rules, data.version))
        return await fetch_rules(ctx.source, project_id)


async def fetch_rules(source: Source, project_id: int) -> ClassificationRulesView:
    row = await classification_rules.find_newest(source, project_id)
    if row is None:
        return ClassificationRulesView(project_id, 0, [], None)
    return ClassificationRulesView(project_id, row.version, row.parsed, row.set_at)
