"""Docker agents: containers that take builds, spawned on demand on the Docker hosts of the operator."""

import re
import secrets
from typing import Annotated, Any, cast

import msgspec
from litestar import Controller, Request, Response, delete, get, post
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import Parameter
from msgspec import Meta

from api.docker_operations import operate
from api.http.paging import Paged, next_page
from api.http.permissions import CAN_READ, NODE_MANAGERS, User
from api.http.repeated_checks import take_turn
from api.http.request_context import RequestContext
from api.http.types import MAX_ID, Id, to_view
from api.live.container_logs import DONE_ID, ContainerLogStream
from api.live.stream_clients import LiveStream, StreamClient, understands_ids
from api.live.streams import Streams
from api.pools import check_may_move
from commands.docker_agents import DestroyDockerAgent, SpawnDockerAgent, StartDockerAgent, StopDockerAgent
from commands.registrations import new_registration
from domain.core.errors import Invalid, NotFound, OutsideFailure, StillRunning, TooManyRequests, Unavailable
from domain.docker_agents import DOCKER_AGENT, PREFIX, DockerAgentStatus
from integrations.container_ports import DockerFailure
from projections import docker_agents
from projections.docker_agents import DockerAgentView
from store.clock import utcnow

DEFAULT_TAIL = 200
"""Number of lines of a log if the request does not say how many it wants."""
MAX_TAIL = 10_000
"""Largest number of lines of a log that a request can ask for."""
MAX_ENV = 100
"""Largest number of environment variables of a container."""
VARIABLE = re.compile(r"[A-Za-z_][A-Za-z0-9_]*")


Host = Annotated[str, Meta(min_length=1, max_length=200)]
Image = Annotated[
    str,
    Meta(
        min_length=1,
        max_length=500,
        pattern=r"^[A-Za-z0-9][\w.:/@-]*\Z",
        description="a name of an image, like testhide/agent:3.14",
    ),
]
MemoryMb = Annotated[int, Meta(ge=64, le=2**24, description="a whole number of MiB from 64 to 16777216")]
Cpus = Annotated[float, Meta(ge=0.01, le=10_000)]


class NewDockerAgent(msgspec.Struct):
    host: Host
    """Name of the Docker host, as the operator has configured it."""
    image: Image
    pool_id: Id | None = None
    """Node pool that the agent's node joins; null for no pool."""
    env: Annotated[dict[str, Annotated[str, Meta(max_length=32_768)]], Meta(max_length=MAX_ENV)] = {}
    """Environment variables of the container. No answer shows them."""
    memory_mb: MemoryMb | None = None
    cpus: Cpus | None = None


class SpawnedDockerAgent(msgspec.Struct):
    id: str
    host: str
    """Name of the Docker host, as the operator has configured it."""
    status: DockerAgentStatus
    image: str
    pool_id: int | None
    memory_mb: int | None
    cpus: float | None


class DockerAgentState(msgspec.Struct):
    id: str
    status: DockerAgentStatus


class DockerAgentLog(msgspec.Struct):
    lines: list[str]


class DockerAgentController(Controller):
    path = "/docker-agents"
    tags = ["Docker Agents"]

    @get(guards=[CAN_READ])
    async def list_docker_agents(
        self,
        ctx: RequestContext,
        paged: Paged,
        status: Annotated[DockerAgentStatus | None, Parameter(description="Filter by status")] = None,
        project_id: Annotated[
            int | None, Parameter(ge=1, le=MAX_ID, description="Only agents in node pools of this project")
        ] = None,
    ) -> Response[list[DockerAgentView]]:
        """Returns a page of the Docker agents on all hosts, oldest first."""
        found = await docker_agents.fetch_page(ctx.source, status=status, project_id=project_id, **paged.window)
        return Response(found, headers=next_page(ctx.request, paged.limit, [agent.number for agent in found]))

    @post("/spawn", guards=[NODE_MANAGERS])
    async def spawn_docker_agent(self, ctx: RequestContext, data: NewDockerAgent) -> SpawnedDockerAgent:
        """Spawns a container on a Docker host. Its agent registers itself as a node, and takes builds of jobs that are
        routed to its pool. The answer does not wait for the container: `GET /docker-agents/{id}` shows its state.
        """
        ctx.services.docker.check(data.host, data.image)
        for name in data.env:
            if not VARIABLE.fullmatch(name):
                raise Invalid.field("env", f"{name!r} is no name of an environment variable")
        await check_may_move(ctx, data.pool_id)
        agent_id = PREFIX + secrets.token_hex(8)
        command = SpawnDockerAgent(
            agent_id,
            data.host,
            data.image,
            *new_registration(utcnow()),
            data.pool_id,
            data.memory_mb,
            data.cpus,
            ctx.services.secrets.seal(msgspec.json.encode(data.env).decode()) if data.env else None,
        )
        agent = (await ctx(command)).existing(DOCKER_AGENT.at(agent_id))
        return to_view(SpawnedDockerAgent, agent, id=agent_id)

    @get(
        "/{id:str}/logs",
        opt={"stream": True, "problems": (OutsideFailure, TooManyRequests, Unavailable)},
        responses={204: ResponseSpec(None, description="The stream has ended", generate_examples=False)},
        guards=[CAN_READ],
    )
    async def get_docker_agent_logs(
        self,
        request: Request[User, Any, Any],
        ctx: RequestContext,
        id: str,
        tail: Annotated[int, Parameter(ge=1, le=MAX_TAIL, description="Number of lines, the last ones")] = DEFAULT_TAIL,
        stream: Annotated[bool, Parameter(description="Send later lines, too, as server-sent events")] = False,
    ) -> Response[DockerAgentLog]:
        """Returns the last lines that the agent has printed, each with its time. Lines of the logs of builds are not
        among them. With `stream`, sends server-sent events instead: `{"type": "log", "data": "..."}` for each line,
        then `{"type": "done"}`. An EventSource that reconnects after `done` gets the answer 204, and stops.
        """
        agent = await find_docker_agent(ctx, id)
        logs = ctx.services.container_logs
        if stream:
            if request.headers.get("last-event-id") == DONE_ID:
                return Response(cast(Any, None), status_code=204)
            streams: Streams = request.app.state.streams
            client = StreamClient(request, lambda user: user.has_scope("read"))
            source = ContainerLogStream(logs, agent.host, id, tail, understands_ids(request))
            return cast(Response[Any], LiveStream(streams.container_logs, client, source))
        try:
            async with take_turn(request, ctx.services.container_log_turns), logs.read(agent.host, id, tail) as batches:
                lines = [line async for batch in batches for line in batch]
                return Response(DockerAgentLog(msgspec.json.decode(b"[" + b",".join(lines) + b"]", type=list[str])))
        except DockerFailure as error:
            raise OutsideFailure(f"{error}.") from None

    @get("/{id:str}", guards=[CAN_READ])
    async def get_docker_agent(self, ctx: RequestContext, id: str) -> DockerAgentView:
        """Returns a Docker agent."""
        return await find_docker_agent(ctx, id)

    @post("/{id:str}/start", status_code=200, opt={"problems": (OutsideFailure, StillRunning)}, guards=[NODE_MANAGERS])
    async def start_docker_agent(
        self, request: Request[User, Any, Any], ctx: RequestContext, id: str
    ) -> DockerAgentState:
        """Starts the container of a stopped Docker agent again, and waits until it runs."""
        agent = await operate(request, ctx, StartDockerAgent(id, *new_registration(utcnow())), "spawn", "start")
        if agent.status != "running":
            raise OutsideFailure(f"Docker agent {id} does not run: {agent.error or 'its agent has ended'}.")
        return DockerAgentState(id, agent.status)

    @post("/{id:str}/stop", status_code=200, opt={"problems": (OutsideFailure, StillRunning)}, guards=[NODE_MANAGERS])
    async def stop_docker_agent(
        self, request: Request[User, Any, Any], ctx: RequestContext, id: str
    ) -> DockerAgentState:
        """Stops the container of a Docker agent, and waits until it has ended. The agent takes no more builds. A build
        that does not end within 15 s is queued again. The container can be started again.
        """
        agent = await operate(request, ctx, StopDockerAgent(id), "stop")
        if agent.status != "stopped":
            raise OutsideFailure(f"Docker agent {id} was not stopped: {agent.error}.")
        return DockerAgentState(id, agent.status)

    @delete("/{id:str}", opt={"problems": (OutsideFailure, StillRunning)}, guards=[NODE_MANAGERS])
    async def destroy_docker_agent(self, request: Request[User, Any, Any], ctx: RequestContext, id: str) -> None:
        """Removes the container of a Docker agent with its files, and deletes the agent's node. A build that runs in
        the container is aborted. If the Docker host does not answer, the answer is 502, and the server goes on trying
        to remove the container.
        """
        agent = await operate(request, ctx, DestroyDockerAgent(id), "destroy")
        if not agent.deleted:
            raise OutsideFailure(f"The container of Docker agent {id} is not removed yet: {agent.error}.")


async def find_docker_agent(ctx: RequestContext, agent_id: str) -> DockerAgentView:
    found = await ctx.find_row(lambda source: docker_agents.find_view(source, agent_id))
    if found is None:
        raise NotFound(f"There is no Docker agent {agent_id}.")
    return found
