"""Triage of failed results by people: classification, defect, resolution, known issue."""

from typing import Annotated

import msgspec
from litestar import Controller, post
from msgspec import Meta

from api.http.permissions import CAN_WRITE
from api.http.request_context import RequestContext
from api.http.types import Id, to_view
from api.tests import find_visible_result
from commands.triage import ClassifyResult, LinkDefect, LinkKnownIssue, SetResolution, TriagedResult
from domain.results import STATUSES
from domain.triage import CLASSIFICATIONS, Classification
from projections.results_history import ResultOrigin

DefectKey = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=200,
        pattern=r"^[^\x00-\x1f\x7f\s][^\x00-\x1f\x7f]*\Z",
        description="a key like SHOP-12, in one line",
    ),
]
# The URL is shown as a link, so other schemes (`javascript:`) must be refused.
DefectUrl = Annotated[
    str,
    Meta(max_length=2_000, pattern=r"^https?://[^\s/?#][^\s\x00-\x1f\x7f]*\Z", description="an http or https address"),
]


class NewClassification(msgspec.Struct):
    classification: Classification


class Classified(msgspec.Struct):
    test_id: int
    classification: Classification
    set_by: str


class NewDefect(msgspec.Struct):
    defect_key: DefectKey
    defect_url: DefectUrl


class LinkedDefect(msgspec.Struct):
    test_id: int
    defect_key: str
    defect_url: str


class NewResolution(msgspec.Struct):
    resolution: Annotated[str, Meta(min_length=1, max_length=10_000, pattern=r"\S")]


class Resolved(msgspec.Struct):
    test_id: int
    resolution: str
    set_by: str


class NewKnownIssueLink(msgspec.Struct):
    known_issue_id: Id


class LinkedKnownIssue(msgspec.Struct):
    test_id: int
    known_issue_id: int
    auto_classify_future: bool = True
    """Whether later failures with the same fail_id or signature are classified in the same way."""


class TriageController(Controller):
    path = "/tests/{test_id:int}"
    tags = ["Reports & Tests"]

    @post("/classification", status_code=200, guards=[CAN_WRITE])
    async def classify_test(self, ctx: RequestContext, test_id: int, data: NewClassification) -> Classified:
        """Classifies a failure. A person's classification replaces that of a rule or a model. Rules and models never
        replace a person's classification.
        """
        user = ctx.user
        result = to_recorded(await find_visible_result(ctx, test_id))
        await ctx(ClassifyResult(result, data.classification, "user", user.user_id))
        return Classified(test_id, data.classification, user.email)

    @post("/defect", status_code=200, guards=[CAN_WRITE])
    async def link_defect(self, ctx: RequestContext, test_id: int, data: NewDefect) -> LinkedDefect:
        """Links a failure to a defect in a tracker."""
        result = to_recorded(await find_visible_result(ctx, test_id))
        await ctx(LinkDefect(result, data.defect_key, data.defect_url, ctx.user.user_id))
        return LinkedDefect(test_id, data.defect_key, data.defect_url)

    @post("/resolution", status_code=200, guards=[CAN_WRITE])
    async def resolve_test(self, ctx: RequestContext, test_id: int, data: NewResolution) -> Resolved:
        """Records how a failure was resolved, as free text."""
        result = to_recorded(await find_visible_result(ctx, test_id))
        await ctx(SetResolution(result, data.resolution, ctx.user.user_id))
        return Resolved(test_id, data.resolution, ctx.user.email)

    @post("/known-issue", status_code=200, guards=[CAN_WRITE])
    async def link_known_issue(self, ctx: RequestContext, test_id: int, data: NewKnownIssueLink) -> LinkedKnownIssue:
        """Links a failure to a known issue, which classifies the failure. The known issue also classifies later
        failures with the same fail_id or signature.
        """
        result = to_recorded(await find_visible_result(ctx, test_id))
        await ctx(LinkKnownIssue(result, data.known_issue_id, ctx.user.user_id))
        return LinkedKnownIssue(test_id, data.known_issue_id, bool(result.fail_id or result.signature))


def to_recorded(origin: ResultOrigin) -> TriagedResult:
    by_rule = None if origin.rule_classification is None else CLASSIFICATIONS[origin.rule_classification]
    return to_view(TriagedResult, origin, status=STATUSES[origin.status], by_rule=by_rule)
