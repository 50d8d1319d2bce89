"""Operations on builds: start, list, show, follow and stop them."""

from collections.abc import AsyncIterator
from contextlib import AsyncExitStack, asynccontextmanager
from datetime import datetime
from typing import Annotated, Any

import msgspec
from litestar import Controller, Request, Response, get, post
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import Parameter
from msgspec import UNSET, Meta, UnsetType, structs
from psycopg import AsyncConnection

from api.http.as_of import AsOf, make_reader, reach_moment
from api.http.as_of import as_of as takes_as_of
from api.http.paging import check_one_offset, next_page
from api.http.permissions import CAN_BUILD, CAN_READ, CAN_REPORT, User
from api.http.repeated_checks import check_after, take_turn
from api.http.request_context import RequestContext
from api.http.types import MAX_ID, Id, fields_of, to_view
from api.live.build_feed import DONE, STILL_HERE, BuildStream, parse_offset
from api.live.stream_clients import MEDIA_TYPE, LiveStream, StreamClient, understands_ids
from api.live.streams import Streams
from commands.builds import EXTERNAL_ATTEMPT, AbortBuild, FinishExternalBuild, StartBuild, start_build
from commands.configurations import check_variables
from commands.value_checks import ValueCheck
from domain.builds import BUILD, BuildQueued, Verdict, VisibleStatus, status_of
from domain.core.errors import ContentsAltered, Forbidden, Invalid, NotFound
from projections import build_positions, builds, results_queries
from projections.build_views import BuildDetail, BuildItem, detail, item
from projections.builds import BuildCount, BuildFilters, BuildRow
from projections.time_travel.historical_reads import BUILD_HISTORY, fold_builds
from store.tables.waiting_reasons import fetch_waiting_reason

DEFAULT_PAGE_BUILDS = 25
"""Number of builds on a page if the request does not say how many it wants."""
MAX_PAGE_BUILDS = 200
"""Largest number of builds on a page."""
WITH_IDS = (
    "Send the id of each message, by which a client goes on where it lost the connection. An EventSource, and a request"
    " with `Last-Event-ID`, get ids in any case"
)

Variables = Annotated[
    dict[
        Annotated[
            str, Meta(pattern=r"^[A-Za-z_][A-Za-z0-9_]*\Z", max_length=200, description="a name like BUILD_TYPE")
        ],
        Annotated[str, Meta(max_length=65_536)],
    ],
    ValueCheck(check_variables),
]
Ref = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=500,
        pattern=r"^[^-\s~^:?*\[\\][^\s~^:?*\[\\]*\Z",
        description="a branch, tag or ref of git",
    ),
]
Commit = Annotated[str, Meta(pattern=r"^[0-9a-fA-F]{4,64}\Z", description="a commit of 4 to 64 hexadecimal digits")]

CommitFilter = Annotated[
    str | None,
    Parameter(
        pattern=r"^[0-9a-fA-F]{7,64}\Z", description="a commit, or its beginning: 7 to 64 hexadecimal digits of its SHA"
    ),
]


class NewBuild(msgspec.Struct):
    job_id: Id
    branch: Ref | None = None
    """Branch, tag or ref of git; the job's default branch if none is given. `refs/heads/main` means `main`. For an
    external build, `origin/main` also means `main`.
    """
    commit_sha: Commit | None = None
    env: Variables = {}
    secrets: Variables = {}
    priority: Annotated[int, Meta(ge=1, le=10)] = 5
    external: bool = False
    """Whether the pipeline runs elsewhere and reports here. Then `env` and `secrets` must be empty, and `priority`
    affects only restarts. The job's matrix is ignored.
    """


class StartedBuild(msgspec.Struct):
    id: int
    job_id: int
    status: VisibleStatus
    branch: str
    commit_sha: str | None
    created_at: datetime
    group_id: int | None
    """Id of the build group, if the job has a matrix; null without a matrix."""
    builds: list[int]
    """Ids of all builds that were started: one for each combination of the job's matrix; without a matrix, only
    `id`.
    """


class BuildStatus(msgspec.Struct):
    id: int
    status: VisibleStatus


class ExternalResult(msgspec.Struct):
    status: Verdict
    """Verdict of the pipeline."""
    ignore_unreadable_reports: bool = False
    """Whether the build may pass although one of its reports cannot be read. Otherwise the build fails with the reason
    `reports_unreadable`.
    """


class BuildPage(msgspec.Struct):
    total: int
    results: list[BuildItem]
    erased: list[int] | UnsetType = UNSET
    """Only with `as_of`: ids of the builds of this page that have been deleted since. Their branch and commit are
    erased.
    """
    branch_erased: int | UnsetType = UNSET
    """Only with `as_of` and `branch`: number of builds that match the other filters but have been deleted since. The
    list leaves them out: their branch is erased, so nobody knows whether it matches. 10,000 means 10,000 or more.
    """


class BuildController(Controller):
    path = "/builds"
    tags = ["Builds"]

    @post("/start", guards=[CAN_BUILD])
    async def start_build(self, ctx: RequestContext, data: NewBuild) -> StartedBuild:
        """Queues a build of a job. If the job has a matrix, queues a build for each combination and returns the first
        one.

        With `external`, the pipeline runs elsewhere and reports here. Otherwise an agent runs the build, and checks
        `commit_sha` out from the job's repository or, if the job has none, from the repository of the project's SCM
        endpoint. If there is neither repository, nothing is checked out: the build's log says so, and its
        `detail` if it has a `commit_sha`. A variable in `env` must not have the name of a secret of the job.
        """
        project_id = await ctx.find(lambda _, job_id: ctx.services.project_of_job(job_id), "job", data.job_id)
        await ctx.must_access(project_id, f"job {data.job_id}")
        for name in ("env", "secrets"):
            if data.external and getattr(data, name):
                raise Invalid.field(name, "has no effect on an external build: set it where the pipeline runs")
        build_id = await ctx.services.ids.draw("builds")
        sealed = {name: ctx.services.secrets.seal(value) for name, value in data.secrets.items()}
        fields: dict[str, Any] = fields_of(data) | {"secrets": sealed}
        command = StartBuild(build_id, **fields, by_admin=ctx.user.is_admin)
        receipt = await start_build(ctx, ctx.services.ids, command)
        build = receipt.state(BUILD.at(build_id))
        assert build is not None
        events = [recorded.event for recorded in receipt.events]
        return to_view(
            StartedBuild,
            build.queued,
            id=build_id,
            status=status_of(build),
            created_at=build.queued.at,
            builds=[event.build_id for event in events if isinstance(event, BuildQueued)],
        )

    @get(opt={"as_of": True, "headers": ("Testhide-Total",)}, guards=[CAN_READ])
    async def list_builds(
        self,
        ctx: RequestContext,
        project_id: Annotated[int | None, Parameter(ge=1, le=MAX_ID, description="Filter by project")] = None,
        job_id: Annotated[int | None, Parameter(ge=1, le=MAX_ID)] = None,
        status: Annotated[VisibleStatus | None, Parameter(description="Only builds of this status")] = None,
        branch: Annotated[str | None, Parameter(min_length=1, max_length=500)] = None,
        commit_sha: CommitFilter = None,
        created_after: datetime | None = None,
        created_before: datetime | None = None,
        group_id: Annotated[
            int | None, Parameter(ge=1, le=MAX_ID, description="Only builds of the group with this id")
        ] = None,
        page: Annotated[int, Parameter(ge=1, le=1_000_000)] = 1,
        limit: Annotated[int, Parameter(ge=1, le=MAX_PAGE_BUILDS)] = DEFAULT_PAGE_BUILDS,
        before: Annotated[
            int | None, Parameter(ge=1, le=MAX_ID, description="Only builds older than this id, instead of a page")
        ] = None,
        as_of: AsOf = None,
    ) -> Response[BuildPage]:
        """Returns a page of builds, the newest first. The header `Link: rel="next"` leads to the page of older builds.
        Reading a page by its link takes the same time however old its builds are.

        With `as_of`, returns builds as they were at that moment: `status=queued` then selects the builds that were
        queued at that moment.
        """
        check_one_offset(ctx.request, "before")
        filters = BuildFilters(
            ctx.user.projects,
            project_id,
            job_id,
            status,
            branch,
            None if commit_sha is None else commit_sha.lower(),
            created_after,
            created_before,
            group_id,
        )
        on_page = structs.replace(filters, before_id=before)
        offset = 0 if before is not None else (page - 1) * limit
        if as_of is not None:
            found, total, shown = await read_past_page(ctx, filters, on_page, as_of, limit, offset)
        else:
            async with ctx.reading() as connection:
                rows = await builds.fetch_page(connection, on_page, limit, offset)
                total = await builds.count(connection, filters)
            found, shown = [row.id for row in rows], BuildPage(total.builds, [item(row) for row in rows])
        headers = next_page(ctx.request, limit, found, key="before")
        if total.is_lower_bound:
            headers["Testhide-Total"] = "lower-bound"
        return Response(shown, headers=headers)

    @get("/{build_id:int}", guards=[CAN_READ], **takes_as_of(BUILD_HISTORY, "build_id"))
    async def get_build(self, ctx: RequestContext, build_id: int) -> BuildDetail:
        """Returns a build with its totals and comments. While it is queued, also returns the reason why it waits; once
        it has failed, the parts of its log that explain the failure.
        """
        async with read_build(ctx, build_id) as (connection, row):
            waits = row.status == "queued" and row.assigned_at is None
            waiting_for = await fetch_waiting_reason(connection, build_id) if waits else None
            comments = await builds.fetch_comments(connection, build_id)
            # Only failed builds are explained.
            explanation = await builds.find_explanation(connection, build_id) if row.status == "failed" else None
            classified = 0
            if row.failed or row.known_issues or row.quarantined:
                ranges = await results_queries.fetch_reports(connection, build_id)
                classified = await results_queries.count_classified_by_rules(connection, ranges)
        return detail(row, waiting_for, comments, explanation, classified)

    @post("/{build_id:int}/stop", status_code=200, guards=[CAN_BUILD])
    async def stop_build(self, ctx: RequestContext, build_id: int) -> BuildStatus:
        """Aborts a queued or running build. Its agent kills the processes of the build."""
        await check_build(ctx, build_id)
        await ctx(AbortBuild(build_id, "stopped_by_user", logs=await ctx.services.build_logs.fetch_ends(build_id)))
        return BuildStatus(build_id, "aborted")

    @post("/{build_id:int}/finish", status_code=200, guards=[CAN_REPORT])
    async def finish_build(self, ctx: RequestContext, build_id: int, data: ExternalResult) -> BuildStatus:
        """Ends an external build with the verdict that its pipeline reports. If a test in the build's reports failed,
        the verdict is always `failed`.
        """
        await check_build(ctx, build_id)
        end = await ctx.services.build_logs.fetch_end(build_id, EXTERNAL_ATTEMPT)
        receipt = await ctx(FinishExternalBuild(build_id, data.status, data.ignore_unreadable_reports, end))
        build = receipt.state(BUILD.at(build_id))
        assert build is not None
        return to_view(BuildStatus, build, id=build_id, status=status_of(build))

    @get(
        "/{build_id:int}/stream",
        media_type=MEDIA_TYPE,
        opt={"problems": (ContentsAltered,)},
        responses={204: ResponseSpec(None, description="The stream has ended", generate_examples=False)},
        guards=[CAN_READ],
    )
    async def stream_build(
        self,
        request: Request[User, Any, Any],
        ctx: RequestContext,
        build_id: int,
        ids: Annotated[bool, Parameter(description=WITH_IDS)] = False,
    ) -> LiveStream | Response[None]:
        """Sends server-sent events: each line of the log as it comes, then the final status of the build, then `done`.

        Answers 204 if `Last-Event-ID` is the id of the `done` event: the client has everything then, and an EventSource
        stops reconnecting.
        """
        row = await find_visible_build(ctx, build_id)
        project_id = row.project_id
        last = request.headers.get("last-event-id")
        after = parse_offset(last)
        if last is not None and last.endswith(DONE) and row.finished_at is not None:
            return Response(None, status_code=204)
        with_ids = ids or understands_ids(request)
        streams: Streams = request.app.state.streams
        if row.finished_at is not None:
            await streams.finished_logs.count_lines(build_id)
        client = StreamClient(
            request, lambda user: user.may("read", project_id), keep_alive=(lambda: STILL_HERE) if with_ids else None
        )
        source = BuildStream(streams.builds, build_id, with_ids=with_ids, after=after)
        return LiveStream(streams.clients, client, source)


@asynccontextmanager
async def read_build(ctx: RequestContext, build_id: int) -> AsyncIterator[tuple[AsyncConnection, BuildRow]]:
    """Yields a connection and the build, which was read on that connection.

    If the read models lack the build, first waits until they have caught up with the log, since the build may have been
    started a moment ago. Raises Unavailable if this wait takes too long. Raises NotFound if the build does not exist or
    the user cannot see it, and Forbidden if the user's access is too low.
    """
    async with AsyncExitStack() as stack:
        connection = await stack.enter_async_context(ctx.reading())
        row = await builds.find(connection, build_id)
        if row is None and not ctx.is_historical:
            await stack.aclose()  # releases the connection before the wait
            await ctx.services.wait_for_missing()
            connection = await stack.enter_async_context(ctx.reading())
            row = await builds.find(connection, build_id)
        if row is None:
            raise NotFound(f"There is no build {build_id}.")
        await ctx.must_access(row.project_id, f"build {build_id}")
        yield connection, row


def find_projects_with_past(user: User) -> list[int] | None:
    """Returns the ids of the projects whose past the user may read; None for all projects. Raises Forbidden if the user
    may read the past of no project.
    """
    if user.is_admin:
        return None
    projects = [project for project in user.projects or () if user.may("admin", project)]
    if not projects:
        raise Forbidden("The past is for admins, and that of a project for the project's admins.")
    return projects


async def read_past_page(
    ctx: RequestContext, filters: BuildFilters, on_page: BuildFilters, as_of: str, limit: int, offset: int
) -> tuple[list[int], BuildCount, BuildPage]:
    """Returns three values, as of a past moment: the ids of the builds on a page, the number of all builds that
    `filters` select, and the page itself.

    Admins can read the past of all projects. Admins of a project can read the past of that project. Raises Forbidden
    for other users, and Invalid for a filter by commit or group.
    """
    if filters.commit_sha is not None:
        raise Invalid.field("commit_sha", "is not possible with `as_of`: a build may have had another commit then")
    if filters.group_id is not None:
        raise Invalid.field("group_id", "is not possible with `as_of`: read the group, and its builds one by one")
    find_projects_with_past(ctx.user)
    moment = await check_after(ctx.request, reach_moment(ctx.services, ctx.request, as_of))
    async with take_turn(ctx.request, ctx.services.past.turns), ctx.reading() as connection:
        if (projects := find_projects_with_past(ctx.user)) is not None:
            filters, on_page = (structs.replace(one, projects=projects) for one in (filters, on_page))
        ids = await build_positions.fetch_page(connection, on_page, moment.position, limit, offset)
        total = await build_positions.count(connection, filters, moment.position)
        unknown: int | UnsetType = UNSET
        if filters.branch is not None:
            unknown = (await build_positions.count_without_branch(connection, filters, moment.position)).builds
        reader = await make_reader(ctx.services.pool, ctx.log, moment, [BuildRow])
        rows = await fold_builds(reader, ids)
    erased = [row.id for row in rows if reader.tables.is_erased(row)]
    return ids, total, BuildPage(total.builds, [item(row) for row in rows], erased, unknown)


async def check_build(ctx: RequestContext, build_id: int) -> None:
    """Raises NotFound if the build does not exist or the user cannot see it, and Forbidden if the user's access is too
    low. Raises Unavailable if the build is missing while the read models are behind the log.
    """
    await ctx.must_access(await ctx.find(builds.find_project, "build", build_id), f"build {build_id}")


async def find_visible_build(ctx: RequestContext, build_id: int) -> BuildRow:
    """Returns the build. Raises NotFound if it does not exist or the user cannot see it, and Forbidden if the user's
    access is too low. Raises Unavailable if the build is missing while the read models are behind the log.
    """
    async with read_build(ctx, build_id) as (_, row):
        return row
