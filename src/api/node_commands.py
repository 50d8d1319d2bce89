"""Commands for the agent of a node. Asked for and answered by events, so that an answer outlives either process."""

import asyncio
from typing import Annotated, Any

import msgspec
from litestar import Controller, Request, Response, get, post
from litestar.openapi.datastructures import ResponseSpec
from msgspec import Meta

from api.http.permissions import User, admins_only
from api.http.request_context import RequestContext
from api.live.readers import watching_disconnect
from commands.node_commands import RequestNodeCommand
from domain.core.errors import NotFound, StillRunning
from domain.node_commands import NODE_COMMAND, NodeCommand, NodeCommandCompleted, completion_notification
from store.postgres.notifications import AGENT_NOTIFICATIONS, wait_for

GRACE_S = 5.0
"""For the way to the agent and back."""


class NewCommand(msgspec.Struct):
    command: Annotated[str, Meta(min_length=1, max_length=65_536, pattern=r"\S")]
    timeout_s: Annotated[int, Meta(ge=1, le=600)] = 30


class CommandResult(msgspec.Struct):
    exit_code: int | None
    """None when it was killed for its time."""
    stdout: str
    stderr: str
    timed_out: bool
    truncated: bool
    """Only the last 256 KiB of each are kept."""


class Detail(msgspec.Struct):
    detail: str


class NodeCommandController(Controller):
    path = "/nodes/{node_id:int}"
    tags = ["Nodes / CI Agents"]

    @post("/restart", status_code=202, guards=[admins_only("manage nodes")])
    async def restart(self, request: Request[User, Any, Any], ctx: RequestContext, node_id: int) -> Detail:
        """The agent ends its builds and begins anew."""
        await ctx(RequestNodeCommand(await ctx.services.ids.draw("node_commands"), node_id, "restart"))
        return Detail(f"Restart command sent to node {node_id}.")

    @post("/execute", status_code=200, guards=[admins_only("run commands on nodes")])
    async def execute(
        self, request: Request[User, Any, Any], ctx: RequestContext, node_id: int, data: NewCommand
    ) -> CommandResult:
        """Runs a shell line outside any build and waits for its end. The log keeps it, and who asked."""
        command_id = await ctx.services.ids.draw("node_commands")
        answered = asyncio.Event()

        def on_wake(payload: str | None) -> None:
            if payload in (None, completion_notification(command_id)):
                answered.set()

        # Register, then ask, then look: the answer cannot come in between unseen.
        with ctx.services.listener.subscribed(AGENT_NOTIFICATIONS, on_wake):
            await ctx(RequestNodeCommand(command_id, node_id, "execute", data.command, data.timeout_s))
            ends = asyncio.get_running_loop().time() + data.timeout_s + GRACE_S
            async with watching_disconnect(request, answered) as is_gone:
                while True:
                    answered.clear()
                    command = await ctx.services.log.load_state(NODE_COMMAND.at(command_id))
                    if command is not None and command.result is not None:
                        return shown(command.result)
                    left = ends - asyncio.get_running_loop().time()
                    if left <= 0 or is_gone.is_set():
                        raise StillRunning(
                            f"The agent of node {node_id} has not answered in {data.timeout_s} s; ask again later.",
                            f"/api/v3/nodes/{node_id}/commands/{command_id}",
                        )
                    await wait_for(answered, min(1.0, left))

    @get(
        "/commands/{command_id:int}",
        guards=[admins_only("run commands on nodes")],
        responses={202: ResponseSpec(Detail, description="Not answered yet", generate_examples=False)},
    )
    async def command(
        self, request: Request[User, Any, Any], ctx: RequestContext, node_id: int, command_id: int
    ) -> Response[CommandResult | Detail]:
        """The result of a command; 202 while there is none."""
        found: NodeCommand | None = await ctx.services.log.load_state(NODE_COMMAND.at(command_id))
        if found is None or found.node_id != node_id:
            raise NotFound(f"There is no command {command_id} for node {node_id}.")
        if found.result is None:
            return Response(Detail("The agent has not answered yet."), status_code=202)
        return Response(shown(found.result), status_code=200)


def shown(result: NodeCommandCompleted) -> CommandResult:
    return CommandResult(result.exit_code, result.stdout, result.stderr, result.timed_out, result.truncated)
