"""Operations of agents: connect, poll, log, report, finish. docs/agent-protocol.md describes the agent's side."""

import hashlib
from typing import Annotated, Any, Literal

import msgspec
from litestar import Controller, Request, Response, get, post
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import Parameter
from msgspec import Meta

from api.http.body_limits import LARGE_BYTES
from api.http.head import IS_HEAD
from api.http.idempotency import BODY_HASH
from api.http.permissions import Agent, agents_only
from api.http.request_context import RequestContext
from api.http.types import fields_of
from api.live.agent_polls import POLL_TIMEOUT_S, AgentPolls
from api.live.stream_clients import watching_disconnect
from commands.build_assignment import AcknowledgeBuild, must_hold
from commands.builds import FinishBuild
from commands.node_commands import CompleteNodeCommand
from commands.nodes import ConnectNode, MarkNodeOffline, RetireOldToken
from commands.reports.recording import IncomingReport, load_build
from commands.reports.report_queue import ReportSender
from commands.scm import find_build_endpoint
from domain.builds import BUILD, Assigned, BuildFinished, BuildRequeued, Finished, Running, Verdict
from domain.core.errors import Conflict, TooLarge
from domain.nodes import NODE
from store.tables.build_logs import Line

HEARTBEAT_INTERVAL_S = 10
"""Seconds between two heartbeats of an agent. Each agent gets this number when it connects."""
REPLACEABLE_AFTER_S = 15
"""Seconds since the last request of an agent after which another agent with the same token may replace the agent.
Before that, the server refuses the other agent, unless its `replaces` proves that the first agent is dead. The node
stays online for longer: `OFFLINE_AFTER_S` in `workers/dispatch/dispatcher.py`.
"""
MAX_REPORT_BYTES = 512 * 1024 * 1024
"""Largest size in bytes of a report file as it is sent, compressed or not."""
MAX_OUTPUT = 512 * 1024
"""Largest number of characters of the `stdout`, and of the `stderr`, of a command. Agents send the last 256 KiB of
each.
"""

MAX_RUNNING = 10_000
"""Largest number of builds that a heartbeat can name. A node runs far fewer."""

Name = Annotated[str, Meta(max_length=500)]
Session = Annotated[str, Meta(min_length=8, max_length=64, pattern=r"^[A-Za-z0-9_-]+\Z")]
Attempt = Annotated[int, Parameter(ge=1, le=1_000)]


class Connection(msgspec.Struct):
    session: Session
    version: Name
    platform: Name
    hostname: Name
    cpu_cores: Annotated[int, Meta(ge=0, le=100_000)]
    ram_gb: Annotated[float, Meta(ge=0, le=1e7)]
    running: list[int] = []
    """Ids of the builds that the agent still runs."""
    features: Annotated[list[Annotated[str, Meta(max_length=50)]], Meta(max_length=50)] = []
    """Names of the features that this agent has and older agents lack."""
    replaces: Annotated[str, Meta(max_length=200)] | None = None
    """Secret from the agent's work folder. It proves that the last agent in this folder is dead: the SHA-256 of the
    secret is the session of that last agent.
    """


class Connected(msgspec.Struct):
    node_id: int
    name: str
    max_parallel: int
    heartbeat_s: int = HEARTBEAT_INTERVAL_S
    """Seconds between two heartbeats."""
    poll_s: int = POLL_TIMEOUT_S
    """Seconds after which a poll without a message ends."""


class Disconnection(msgspec.Struct):
    session: Session


class Heartbeat(msgspec.Struct):
    session: Session
    cpu_pct: Annotated[float, Meta(ge=0, le=100)]
    ram_pct: Annotated[float, Meta(ge=0, le=100)]
    disk_free_gb: Annotated[float, Meta(ge=0, le=1e9)]
    uptime_s: Annotated[int, Meta(ge=0, le=2**40)]
    """Seconds since the machine started. Of two heartbeats of a session, the later one has the larger number."""
    running: Annotated[list[tuple[int, int]], Meta(max_length=MAX_RUNNING)] = []
    """Builds that the agent runs, each as a pair: the build's id and the number of the attempt. The agent names a build
    from the `run` message until the server has accepted the build's end. A build that it does not name for 30 s is
    lost.
    """


class Lost(msgspec.Struct):
    lost: list[tuple[int, str]]
    """Builds that the agent must end, each as a pair: the build's id and a reason. The reason is `stopped` if the build
    has ended on this node, otherwise `reassigned`.
    """


class Started(msgspec.Struct):
    commit_sha: Annotated[str, Meta(max_length=64)] | None = None


class LogLines(msgspec.Struct):
    offset: Annotated[int, Meta(ge=0, le=2**40)]
    """Number of lines of the log that come before these lines."""
    lines: Annotated[list[Line], Meta(max_length=10_000)]


class Acknowledged(msgspec.Struct):
    acknowledged: int
    """Number of lines, from the beginning of the log, that the server has stored without a gap."""


class ReportAnswer(msgspec.Struct):
    recorded: int
    """Number of results that were read."""
    warnings: list[str]


class FinishedReport(msgspec.Struct):
    exit_code: int | None = None
    reason: Literal["setup_failed", "timeout", "stopped", "checkout_failed"] | None = None
    detail: Annotated[str, Meta(max_length=10_000)] | None = None
    log_lines: Annotated[int, Meta(ge=0, le=2**40)] = 0


class CompletedCommand(msgspec.Struct):
    exit_code: Annotated[int, Meta(ge=-(2**31), le=2**32)] | None = None
    """Exit code of the command; null if the command was killed, for example at its time limit."""
    stdout: Annotated[str, Meta(max_length=MAX_OUTPUT)] = ""
    stderr: Annotated[str, Meta(max_length=MAX_OUTPUT)] = ""
    truncated: bool = False
    timed_out: bool = False


class FinishAnswer(msgspec.Struct):
    status: Verdict | Literal["running"]


class AgentController(Controller):
    path = "/agent"
    tags = ["Agents"]
    opt = {"agents": True}
    guards = [agents_only]
    request_max_body_size = LARGE_BYTES

    @post("/connect", status_code=200)
    async def connect_agent(self, ctx: RequestContext, data: Connection) -> Connected:
        """Begins a session of the node's agent. Answers 409 if another agent with the same token sent a request within
        the last 15 s, since that agent may still be alive.

        A restarted agent need not wait: by the secret of its work folder (`replaces`) it proves that the last session
        is over.
        """
        node_id = ctx.node_id
        gauge = await ctx.services.gauges.fetch(node_id)
        dead = gauge is None or gauge.silent_s > REPLACEABLE_AFTER_S
        attributes = {name: value for name, value in fields_of(data).items() if name not in ("running", "replaces")}
        receipt = await ctx(
            ConnectNode(
                node_id=node_id,
                replaces_dead=dead,
                replaces_session=hashlib.sha256(data.replaces.encode()).hexdigest() if data.replaces else None,
                **attributes,
            )
        )
        await ctx.services.gauges.record_contact(node_id, data.session)
        await _retire_old_token(ctx)
        node = receipt.existing(NODE.at(node_id))
        return Connected(node_id, node.title, node.max_parallel)

    @post("/disconnect", status_code=200)
    async def disconnect_agent(self, ctx: RequestContext, data: Disconnection) -> dict[str, str]:
        """Ends the session that the body names. Does nothing if the node has another session by now."""
        await ctx(MarkNodeOffline(ctx.node_id, data.session, "its agent was stopped"))
        return {}

    @get(
        "/next",
        responses={204: ResponseSpec(None, description="No message", generate_examples=False)},
        opt={"problems": (Conflict,)},
    )
    async def get_next_message(
        self,
        request: Request[Agent, Any, Any],
        ctx: RequestContext,
        session: Session,
        free: Annotated[int, Parameter(ge=0, le=10_000)],
        receipt: Annotated[str | None, Parameter(max_length=200)] = None,
    ) -> Response[dict[str, Any] | None]:
        """Waits for a message for the agent and returns the message. Answers 204 if none comes within `poll_s` seconds.

        `receipt` confirms the last message that the agent got; the first poll has none. The server sends a message
        again until a poll confirms it.
        """
        node_id = ctx.node_id
        await _must_be_connected(ctx, session)
        if IS_HEAD in request.scope:
            return Response(None, status_code=204)  # HEAD takes no message, and leaves the agent's poll open
        polls: AgentPolls = request.app.state.polls
        message = await polls.next(request, node_id, session, free, receipt)
        return Response(message, status_code=204 if message is None else 200)

    @post("/heartbeat", status_code=200)
    async def send_heartbeat(self, ctx: RequestContext, data: Heartbeat) -> Lost:
        """Records the agent's measurements. Returns the builds in `running` that no longer belong to this node; the
        agent must end these builds.
        """
        node_id = ctx.node_id
        await _must_be_connected(ctx, data.session)
        await _retire_old_token(ctx)
        await ctx.services.gauges.record_heartbeat(
            node_id, data.session, data.cpu_pct, data.ram_pct, data.disk_free_gb, data.uptime_s, data.running
        )
        streams = {build_id: BUILD.at(build_id) for build_id, _ in data.running}
        builds = await ctx.services.log.load_states(streams.values())
        lost: list[tuple[int, str]] = []
        for build_id, attempt in data.running:
            build = builds[streams[build_id].name].state
            if not (isinstance(build, Assigned | Running) and build.node_id == node_id and build.attempt == attempt):
                has_ended = isinstance(build, Finished) and build.node_id == node_id
                lost.append((build_id, "stopped" if has_ended else "reassigned"))
        return Lost(lost)

    @post("/builds/{build_id:int}/started", status_code=200)
    async def report_build_started(
        self, ctx: RequestContext, build_id: int, attempt: Attempt, data: Started
    ) -> dict[str, str]:
        """Marks a build as running on the node. If other builds of its group test another commit, answers 409 instead,
        and queues the build again or, after the last attempt, ends it as failed.
        """
        receipt = await ctx(AcknowledgeBuild(build_id, ctx.node_id, attempt, data.commit_sha))
        if any(isinstance(recorded.event, BuildRequeued | BuildFinished) for recorded in receipt.events):
            raise Conflict(f"Build {build_id} does not run here: other builds of its group test another commit.")
        return {}

    @post("/builds/{build_id:int}/log", status_code=200)
    async def append_build_log(
        self, ctx: RequestContext, build_id: int, attempt: Attempt, data: LogLines
    ) -> Acknowledged:
        """Appends lines to a build's log. Returns how many lines of the log, from its beginning, are stored without a
        gap.
        """
        node_id = ctx.node_id
        build = must_hold(await ctx.services.log.load_state(BUILD.at(build_id)), build_id, node_id, attempt)
        logs = ctx.services.build_logs
        return Acknowledged(await logs.append(build.queued.job_id, build_id, attempt, data.offset, data.lines))

    @post(
        "/builds/{build_id:int}/report",
        status_code=200,
        request_max_body_size=MAX_REPORT_BYTES,
        opt={"content": {"application/octet-stream": {"type": "string", "format": "binary"}}},
    )
    async def upload_report(
        self,
        request: Request[Agent, Any, Any],
        ctx: RequestContext,
        build_id: int,
        attempt: Attempt,
        path: Annotated[str, Parameter(max_length=1_000)],
        missing: Annotated[bool, Parameter(description="No file matches `path`, a pattern")] = False,
        unreadable: Annotated[bool, Parameter(description="The agent cannot read or send the file at `path`")] = False,
    ) -> ReportAnswer:
        """Records the results of a report. The body is the report file.

        With `missing` or `unreadable`, the body is empty. `missing` says that `path`, a pattern from the job's
        artifacts, matches no report. `unreadable` says that the agent cannot read or send the file at `path` or, if
        `path` is a pattern, files that match it. A path of more than 1,000 characters is sent without its beginning.
        """
        node_id = ctx.node_id
        build = await load_build(ctx.services.log, build_id)
        must_hold(build.state, build_id, node_id, attempt)
        with ctx.services.spool.open("report-") as spooled:
            spooled.project_id = build.state.queued.project_id
            size, hashed = 0, hashlib.sha256()
            async for chunk in request.stream():
                size += len(chunk)
                hashed.update(chunk)
                if size > MAX_REPORT_BYTES:
                    raise TooLarge(f"A report may have {MAX_REPORT_BYTES // 2**20} MiB.")
                spooled.write(chunk)
            spooled.flush()
            request.state[BODY_HASH] = hashed.digest()
            async with watching_disconnect(request) as has_left:
                sender = ReportSender(ctx.agent.actor, has_left)
                file = IncomingReport(attempt, path, spooled.path, hashed.digest(), sender)
                reports = ctx.services.reports
                if unreadable:
                    recorded = await reports.record_denied(ctx, build, file)
                else:
                    recorded = await (reports.record_missing if missing else reports.record_file)(ctx, build, file)
        return ReportAnswer(recorded.cases, list(recorded.warnings))

    @post("/builds/{build_id:int}/finished", status_code=200)
    async def report_build_finished(
        self, ctx: RequestContext, build_id: int, attempt: Attempt, data: FinishedReport
    ) -> FinishAnswer:
        """Ends a build and returns its verdict."""
        queued = (await load_build(ctx.services.log, build_id)).state.queued
        # A build needs its project's repository only if it is of a commit and names no repository itself.
        is_checked_out = not queued.commit_sha or bool(queued.repository)
        has_repository = is_checked_out or await find_build_endpoint(ctx.services.log, queued) is not None
        receipt = await ctx(
            FinishBuild(
                build_id=build_id,
                node_id=ctx.node_id,
                attempt=attempt,
                exit_code=data.exit_code,
                reason="agent_stopped" if data.reason == "stopped" else data.reason,
                detail=data.detail,
                log=await ctx.services.build_logs.fetch_end(build_id, attempt),
                has_repository=has_repository,
            )
        )
        build = receipt.state(BUILD.at(build_id))
        return FinishAnswer(build.status if isinstance(build, Finished) else "running")

    @post("/commands/{command_id:int}/result", status_code=200)
    async def report_command_result(
        self, ctx: RequestContext, command_id: int, data: CompletedCommand
    ) -> dict[str, str]:
        """Records the result of an `execute` or `restart` command. Ignores the result if the command already has
        one.
        """
        await ctx(CompleteNodeCommand(command_id, ctx.node_id, **msgspec.structs.asdict(data)))
        return {}


async def _retire_old_token(ctx: RequestContext) -> None:
    """If the agent sent this request with the node's new token, makes the server refuse the old token from now on."""
    if ctx.agent.replaces_old_token:
        await ctx(RetireOldToken(ctx.node_id))


async def _must_be_connected(ctx: RequestContext, session: str) -> None:
    node = await ctx.services.log.load_state(NODE.at(ctx.node_id))
    if node is None or node.deleted:
        raise Conflict("This node was deleted.")
    if node.session != session:
        raise Conflict("This session is not the node's (any more): connect again.")
