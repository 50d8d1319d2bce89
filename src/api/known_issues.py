"""Known issues: failures that people have understood, and the rules that recognise them."""

from datetime import datetime
from typing import Annotated, Any, get_args

import msgspec
from litestar import Controller, Response, delete, get, post, put
from litestar.params import Parameter
from msgspec import UNSET, Meta, UnsetType

from api.http.paging import Paged, paginate
from api.http.permissions import CAN_READ, CAN_WRITE
from api.http.request_context import RequestContext
from api.http.types import MAX_ID, Id, Name, fields_of, to_view
from api.projects import find_visible_project
from api.triage import DefectKey, DefectUrl
from commands.known_issues import CreateKnownIssue, DeleteKnownIssue, UpdateKnownIssue
from commands.reports.patterns import MAX_PATTERN, must_be_a_pattern
from commands.value_checks import ValueCheck, described_as
from domain.core.errors import Conflict, FieldError, Invalid
from domain.known_issues import KNOWN_ISSUE, MAX_FAIL_ID, Clearable, Kind, KnownIssue
from domain.triage import Classification
from projections import known_issues
from projections.known_issues import KnownIssueRow

MAX_PATTERNS = 500
"""Largest number of known issues with a pattern in a project. A limit is needed because the server searches every new
failure for all of these patterns. Simultaneous requests can exceed the limit by a few.
"""
KINDS: tuple[Kind, ...] = get_args(Kind)

PatternText = Annotated[
    str,
    Meta(min_length=1, max_length=MAX_PATTERN, description="RE2, over message and trace"),
    described_as(format="re2"),
]
Signature = Annotated[str, Meta(pattern=r"^[0-9a-f]{16}\Z", description="a text of 16 hex digits, as results carry it")]
FailId = Annotated[str, Meta(min_length=1, max_length=MAX_FAIL_ID, description="As the reporter wrote it")]


class NewKnownIssue(msgspec.Struct):
    """A new known issue, with exactly one of `pattern`, `signature` and `fail_id`."""

    project_id: Id
    title: Name
    classification: Classification
    pattern: Annotated[PatternText, ValueCheck(must_be_a_pattern)] | None = None
    signature: Signature | None = None
    fail_id: FailId | None = None
    defect_key: DefectKey | None = None
    defect_url: DefectUrl | None = None


class KnownIssueChanges(msgspec.Struct):
    """Changes of a known issue. Fields that are left out stay unchanged. A `pattern`, `signature` or `fail_id` replaces
    the present match rule.
    """

    title: Name | UnsetType = UNSET
    classification: Classification | UnsetType = UNSET
    pattern: PatternText | UnsetType | None = UNSET
    signature: Signature | UnsetType | None = UNSET
    fail_id: FailId | UnsetType | None = UNSET
    defect_key: DefectKey | UnsetType | None = UNSET
    defect_url: DefectUrl | UnsetType | None = UNSET


class KnownIssueView(msgspec.Struct):
    id: int
    project_id: int
    title: str
    classification: Classification
    pattern: str | None
    signature: str | None
    fail_id: str | None
    defect_key: str | None
    defect_url: str | None
    created_at: datetime
    updated_at: datetime


class KnownIssueController(Controller):
    path = "/known-issues"
    tags = ["Known issues"]

    @get(guards=[CAN_READ])
    async def list_known_issues(
        self,
        ctx: RequestContext,
        paged: Paged,
        project_id: Annotated[int, Parameter(ge=1, le=MAX_ID, description="Project to list the known issues of")],
    ) -> Response[list[KnownIssueView]]:
        """Returns a page of the known issues of a project, ordered by id."""
        async with ctx.reading() as connection:
            await find_visible_project(ctx, project_id)
            found = await known_issues.fetch_page(connection, project_id, **paged.window)
        return paginate(ctx.request, paged, [to_known_issue_view(row) for row in found])

    @post(guards=[CAN_WRITE])
    async def create_known_issue(self, ctx: RequestContext, data: NewKnownIssue) -> KnownIssueView:
        """Creates a known issue. It classifies matching failures: those in new reports, and older ones that nobody has
        classified.
        """
        await ctx.must_access(data.project_id)
        match = parse_match(data)
        if match is None:
            raise match_error("one of them is required")
        if match[0] == "pattern":
            await must_have_room(ctx, data.project_id)
        known_issue_id = await ctx.services.ids.draw("known_issues")
        receipt = await ctx(
            CreateKnownIssue(known_issue_id, kind=match[0], value=match[1], **fields_without_match(data))
        )
        return to_known_issue_view(
            receipt.existing(KNOWN_ISSUE.at(known_issue_id)),
            id=known_issue_id,
            created_at=receipt.at,
            updated_at=receipt.at,
        )

    @get("/{known_issue_id:int}", guards=[CAN_READ])
    async def get_known_issue(self, ctx: RequestContext, known_issue_id: int) -> KnownIssueView:
        """Returns a known issue."""
        return to_known_issue_view(await find_visible_known_issue(ctx, known_issue_id))

    @put("/{known_issue_id:int}", guards=[CAN_WRITE])
    async def update_known_issue(
        self, ctx: RequestContext, known_issue_id: int, data: KnownIssueChanges
    ) -> KnownIssueView:
        """Changes a known issue. The change applies to reports that are recorded from now on."""
        before, match = await find_visible_known_issue(ctx, known_issue_id), parse_match(data)
        if match is not None and match[0] == "pattern" != before.kind:
            await must_have_room(ctx, before.project_id)
        await ctx(
            UpdateKnownIssue(
                known_issue_id,
                match=match,
                cleared=tuple(name for name in get_args(Clearable) if getattr(data, name) is None),
                **fields_without_match(data),
            )
        )
        return to_known_issue_view(await find_visible_known_issue(ctx, known_issue_id))

    @delete("/{known_issue_id:int}", guards=[CAN_WRITE])
    async def delete_known_issue(self, ctx: RequestContext, known_issue_id: int) -> None:
        """Deletes a known issue. Failures that it has classified stay classified."""
        await find_visible_known_issue(ctx, known_issue_id)
        await ctx(DeleteKnownIssue(known_issue_id))


async def find_visible_known_issue(ctx: RequestContext, known_issue_id: int) -> KnownIssueRow:
    return await ctx.find_visible(known_issues.find, "known issue", known_issue_id)


async def must_have_room(ctx: RequestContext, project_id: int) -> None:
    """Raises Conflict if the project already has MAX_PATTERNS known issues with a pattern."""
    if await known_issues.count_patterns(ctx.source, project_id) >= MAX_PATTERNS:
        raise Conflict(
            f"The project has {MAX_PATTERNS} known issues with a pattern, and may have no more: first delete one that"
            " matches nothing any more, or join two patterns by `|`."
        )


def parse_match(data: NewKnownIssue | KnownIssueChanges) -> tuple[Kind, str] | None:
    """Returns the kind and the value of the match rule in a body, or None if the body has none. Raises Invalid if the
    body has more than one.
    """
    values: list[tuple[Kind, str]] = [(kind, value) for kind in KINDS if (value := getattr(data, kind) or None)]
    if len(values) > 1:
        raise match_error("only one of them can be given")
    return values[0] if values else None


def fields_without_match(data: NewKnownIssue | KnownIssueChanges) -> dict[str, Any]:
    return {name: value for name, value in fields_of(data).items() if name not in KINDS}


def match_error(why: str) -> Invalid:
    return Invalid(
        f"A known issue has exactly one of pattern, signature, fail_id: {why}.",
        *(FieldError(kind, f"exactly one of pattern, signature, fail_id: {why}") for kind in KINDS),
    )


def to_known_issue_view(issue: KnownIssue | KnownIssueRow, **more: Any) -> KnownIssueView:
    known_by = {kind: issue.value if issue.kind == kind else None for kind in KINDS}
    return to_view(KnownIssueView, issue, **known_by, **more)
