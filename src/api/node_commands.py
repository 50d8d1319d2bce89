"""Commands for nodes: a shell command, or a restart of the agent. The request and the result are events, so they
outlive a restart of the agent or the server.
"""

from typing import Annotated, Any

import msgspec
from litestar import Controller, Request, Response, get, post
from litestar.openapi.datastructures import ResponseSpec
from msgspec import Meta

from api.http.permissions import NODE_MANAGERS, User, admins_only
from api.http.request_context import RequestContext
from api.http.types import to_view
from api.live.requested_work import request_work
from commands.node_commands import RequestNodeCommand
from domain.core.errors import NotFound, StillRunning
from domain.node_commands import NODE_COMMAND, NodeCommand, NodeCommandCompleted, completion_notification

ANSWER_GRACE_S = 5.0
"""Seconds for which the server still waits for a result after the time limit of a command has passed: the messages to
the agent and back take time, too.
"""


class NewCommand(msgspec.Struct):
    command: Annotated[str, Meta(min_length=1, max_length=65_536, pattern=r"\S")]
    timeout_s: Annotated[int, Meta(ge=1, le=600)] = 30
    """Seconds after which the command is killed."""


class CommandResult(msgspec.Struct):
    exit_code: int | None
    """Exit code of the command; null when it was killed at its time limit."""
    stdout: str
    stderr: str
    timed_out: bool
    truncated: bool
    """Whether `stdout` or `stderr` was longer than 256 KiB, so that only its last 256 KiB are returned."""


class Detail(msgspec.Struct):
    detail: str


class NodeCommandController(Controller):
    path = "/nodes/{node_id:int}"
    tags = ["Nodes / CI Agents"]

    @post("/restart", status_code=202, guards=[NODE_MANAGERS])
    async def restart_node(self, ctx: RequestContext, node_id: int) -> Detail:
        """Makes the node's agent end its builds and restart."""
        await ctx(RequestNodeCommand(await ctx.services.ids.draw("node_commands"), node_id, "restart"))
        return Detail(f"Restart command sent to node {node_id}.")

    @post(
        "/execute",
        status_code=200,
        guards=[admins_only("run commands on nodes")],
        opt={"problems": (StillRunning,)},
    )
    async def execute_on_node(
        self, request: Request[User, Any, Any], ctx: RequestContext, node_id: int, data: NewCommand
    ) -> CommandResult:
        """Runs a shell command on the node, outside of any build, and waits until the command ends. If it does not end
        in time, answers 504; `Location` is then the address at which the result will be. The audit trail records the
        command.
        """
        command_id = await ctx.services.ids.draw("node_commands")

        async def find_result() -> NodeCommandCompleted | None:
            command = await ctx.services.log.load_state(NODE_COMMAND.at(command_id))
            return None if command is None else command.result

        result = await request_work(
            request,
            ctx,
            RequestNodeCommand(command_id, node_id, "execute", data.command, data.timeout_s),
            completion_notification(command_id),
            find_result,
            data.timeout_s + ANSWER_GRACE_S,
        )
        if result is None:
            raise StillRunning(
                f"The agent of node {node_id} has not answered in {data.timeout_s} s; ask again later.",
                f"/api/v3/nodes/{node_id}/commands/{command_id}",
            )
        return to_view(CommandResult, result)

    @get(
        "/commands/{command_id:int}",
        guards=[admins_only("run commands on nodes")],
        responses={202: ResponseSpec(Detail, description="Not answered yet", generate_examples=False)},
    )
    async def get_node_command(
        self, ctx: RequestContext, node_id: int, command_id: int
    ) -> Response[CommandResult | Detail]:
        """Returns the result of a command. Answers 202 while the agent has not reported a result."""
        found: NodeCommand | None = await ctx.services.log.load_state(NODE_COMMAND.at(command_id))
        if found is None or found.node_id != node_id:
            raise NotFound(f"There is no command {command_id} for node {node_id}.")
        if found.result is None:
            return Response(Detail("The agent has not answered yet."), status_code=202)
        return Response(to_view(CommandResult, found.result), status_code=200)
