"""Nodes, their tokens, and the download of the agent."""

import hashlib
from datetime import datetime, timedelta
from typing import Annotated, Any

import msgspec
from litestar import Controller, Response, delete, get, post, put
from litestar.params import Parameter
from msgspec import UNSET, UnsetType

from api.http.as_of import as_of
from api.http.authentication import AGENT_TOKEN_PREFIX, PUBLIC
from api.http.idempotency import SHOWN_ONCE
from api.http.paging import Paged, paginate
from api.http.permissions import CAN_READ, NODE_MANAGERS
from api.http.request_context import RequestContext
from api.http.types import MAX_ID, Id, Name, changes_in, fields_of, to_view
from api.pools import check_may_move
from commands.configurations import Parallel, Tags
from commands.nodes import DeleteNode, QuarantineNode, RegisterNode, ReleaseNode, RotateNodeToken, UpdateNode
from domain.core.errors import NotFound
from domain.nodes import NODE
from projections import nodes
from projections.nodes import NodeHealth, NodeView
from projections.time_travel.historical_reads import NODE_HISTORY
from store.clock import utcnow
from store.crypto.secrets import new_token, token_hash

OLD_TOKEN_LIFETIME = timedelta(days=1)
"""Time for which the server still accepts the old token of a node after the token was rotated. If the agent uses the
new token earlier, the old token ends then.
"""
PLATFORMS = ("linux-amd64", "linux-arm64", "windows-amd64")


class NewNode(msgspec.Struct):
    name: Name
    pool_id: Id
    tags: Tags = []
    max_parallel: Parallel = 1


class NodeChanges(msgspec.Struct):
    """Changes of a node. Fields that are left out stay unchanged. A `pool_id` of null removes the node from its
    pool.
    """

    name: Name | UnsetType = UNSET
    pool_id: Id | UnsetType | None = UNSET
    tags: Tags | UnsetType = UNSET
    max_parallel: Parallel | UnsetType = UNSET


class NodeStatus(msgspec.Struct):
    id: int
    status: nodes.Status


class RegisteredNode(msgspec.Struct):
    id: int
    name: str
    pool_id: int
    agent_token: str
    """Token with which the node's agent authenticates. Only this response shows it."""
    tags: list[str]
    max_parallel: int


class RotatedToken(msgspec.Struct):
    node_id: int
    agent_token: str
    """New token of the node's agent. Only this response shows it."""
    old_token_until: datetime | None
    """Time until which the server accepts the old token; null if it refuses the old token from now on. If the agent
    uses the new token earlier, the old token ends then.
    """


class Download(msgspec.Struct):
    url: str
    sha256: str


class LatestAgent(msgspec.Struct):
    version: str
    linux_amd64: Download
    """Download for Linux on x86-64."""
    linux_arm64: Download
    """Download for Linux on ARM."""
    windows_amd64: Download
    """Download for Windows."""


class NodeController(Controller):
    path = "/nodes"
    tags = ["Nodes / CI Agents"]

    @get(guards=[CAN_READ])
    async def list_nodes(
        self,
        ctx: RequestContext,
        paged: Paged,
        pool_id: Annotated[int | None, Parameter(ge=1, le=MAX_ID, description="Filter by node pool")] = None,
        status: Annotated[nodes.Status | None, Parameter(description="Filter by status")] = None,
    ) -> Response[list[NodeView]]:
        """Returns a page of all nodes, ordered by id, with the last measurements of their agents."""
        found = await nodes.fetch_page(ctx.source, pool_id=pool_id, status=status, **paged.window)
        return paginate(ctx.request, paged, found)

    @post(opt=SHOWN_ONCE, guards=[NODE_MANAGERS])
    async def register_node(self, ctx: RequestContext, data: NewNode) -> RegisteredNode:
        """Registers a node. The node's agent authenticates with `agent_token`, which only this answer shows."""
        await check_may_move(ctx, data.pool_id)
        node_id = await ctx.services.ids.draw("nodes")
        token = new_token(AGENT_TOKEN_PREFIX)
        fields: dict[str, Any] = fields_of(data, name="title") | {"tags": list(dict.fromkeys(data.tags))}
        receipt = await ctx(
            RegisterNode(node_id, claim=name_claim(ctx, data.name), token_hash=token_hash(token), **fields)
        )
        node = receipt.existing(NODE.at(node_id))
        return to_view(RegisteredNode, node, id=node_id, name=node.title, agent_token=token)

    @get("/find", opt={"problems": (NotFound,)}, guards=[CAN_READ])
    async def find_node(
        self,
        ctx: RequestContext,
        name: Annotated[str, Parameter(max_length=200, description="Exact node name to look up")],
    ) -> NodeView:
        """Returns the node with exactly this name."""
        found = await nodes.find_view_by_name(ctx.source, name)
        if found is None:
            raise NotFound(f"There is no node called {name!r}.")
        return found

    @get("/agent/latest", guards=[CAN_READ])
    async def get_latest_agent(self, ctx: RequestContext) -> LatestAgent:
        """Returns the version of the newest agent, and the URLs from which it can be downloaded. All platforms get the
        same file, which needs Python 3.9 or newer. The agent does not run on Windows yet.
        """
        services = ctx.services
        sha256 = hashlib.sha256(services.agent_bundle).hexdigest()
        downloads = {
            platform.replace("-", "_"): Download(
                f"{services.base_url}/agent/{services.agent_version}/{platform}", sha256
            )
            for platform in PLATFORMS
        }
        return LatestAgent(services.agent_version, **downloads)

    @get("/{node_id:int}", guards=[CAN_READ], **as_of(NODE_HISTORY, "node_id"))
    async def get_node(self, ctx: RequestContext, node_id: int) -> NodeView:
        """Returns a node with the last measurements of its agent."""
        node = await find_node_view(ctx, node_id)
        return msgspec.structs.replace(node, cpu_pct=None, uptime_s=None) if ctx.is_historical else node

    @get("/{node_id:int}/health", guards=[CAN_READ])
    async def get_node_health(self, ctx: RequestContext, node_id: int) -> NodeHealth:
        """Returns the last measurements of the node's agent. `last_heartbeat_s` is -1 if the agent has never sent
        measurements.
        """
        return await ctx.find(nodes.find_health, "node", node_id)

    @delete("/{node_id:int}", guards=[NODE_MANAGERS])
    async def delete_node(self, ctx: RequestContext, node_id: int) -> None:
        """Deletes a node. The server refuses the node's token from now on, and aborts builds that run on the node."""
        await ctx.find(nodes.find, "node", node_id)
        await ctx(DeleteNode(node_id))

    @put("/{node_id:int}", guards=[NODE_MANAGERS])
    async def update_node(self, ctx: RequestContext, node_id: int, data: NodeChanges) -> NodeView:
        """Changes a node. The change applies to builds that are assigned from now on."""
        changes = changes_in(data, name="title")
        if not isinstance(data.name, UnsetType):
            changes["claim"] = name_claim(ctx, data.name)
        if not isinstance(data.tags, UnsetType):
            changes["tags"] = list(dict.fromkeys(data.tags))
        if not isinstance(data.pool_id, UnsetType):
            node = await ctx.log.load_state(NODE.at(node_id))
            if node is not None and node.pool_id != data.pool_id:
                await check_may_move(ctx, node.pool_id, data.pool_id)
        await ctx(UpdateNode(node_id, **changes))
        return await find_node_view(ctx, node_id)

    @post("/{node_id:int}/rotate-token", status_code=200, opt=SHOWN_ONCE, guards=[NODE_MANAGERS])
    async def rotate_node_token(
        self,
        ctx: RequestContext,
        node_id: int,
        at_once: Annotated[bool, Parameter(description="Refuse the old token from now on")] = False,
    ) -> RotatedToken:
        """Gives a node a new token. Write it into the file of the agent's `--token-file`. The agent reads the file
        again within 10 s, and its builds go on. The server refuses the old token as soon as the agent has used the new
        one, and in any case after a day.
        """
        await ctx.find(nodes.find, "node", node_id)
        token, until = new_token(AGENT_TOKEN_PREFIX), None if at_once else utcnow() + OLD_TOKEN_LIFETIME
        await ctx(RotateNodeToken(node_id, token_hash(token), until))
        return RotatedToken(node_id, token, until)

    @post("/{node_id:int}/quarantine", status_code=200, guards=[NODE_MANAGERS])
    async def quarantine_node(self, ctx: RequestContext, node_id: int) -> NodeStatus:
        """Stops the server from assigning builds to the node. Builds that already run on it go on, and the node still
        accepts commands.
        """
        await ctx(QuarantineNode(node_id))
        return NodeStatus(node_id, "quarantined")

    @delete("/{node_id:int}/quarantine", status_code=200, guards=[NODE_MANAGERS])
    async def release_node(self, ctx: RequestContext, node_id: int) -> NodeStatus:
        """Lets the server assign builds to the node again."""
        await ctx(ReleaseNode(node_id))
        return NodeStatus(node_id, (await find_node_view(ctx, node_id)).status)


class AgentDownloadController(Controller):
    """Downloads of the agent. `/api/v3/nodes/agent/latest` returns their URLs, which are outside of /api/v3."""

    path = "/agent"
    tags = ["Nodes / CI Agents"]

    @get("/{version:str}/{platform:str}", opt=PUBLIC)
    async def download_agent(self, ctx: RequestContext, version: str, platform: str) -> Response[bytes]:
        """Returns the agent as one file for Python: `python3 testhide-agent.pyz`."""
        services = ctx.services
        if version != services.agent_version or platform not in PLATFORMS:
            raise NotFound(
                f"There is no agent {version} for {platform}; /api/v3/nodes/agent/latest lists what there is."
            )
        return Response(
            services.agent_bundle,
            media_type="application/octet-stream",
            headers={"Content-Disposition": 'attachment; filename="testhide-agent.pyz"'},
        )


async def find_node_view(ctx: RequestContext, node_id: int) -> NodeView:
    return await ctx.find(nodes.find_view, "node", node_id)


def name_claim(ctx: RequestContext, name: str) -> str:
    return ctx.services.secrets.claim("node-name", name)
