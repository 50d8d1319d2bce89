"""Registration of machines that the server has made: an agent exchanges a registration token, which works once, for a
token of its node.
"""

from typing import Annotated

import msgspec
from litestar import Controller, post
from msgspec import Meta

from api.http.authentication import AGENT_TOKEN_PREFIX, PUBLIC
from api.http.request_context import RequestContext
from api.nodes import name_claim
from commands.docker_agents import RegisterDockerAgent
from commands.registrations import NOT_VALID, read_registration_token
from commands.vcenter_operations import RegisterVcenterMachine
from domain.core.errors import Conflict, Unauthenticated
from domain.docker_agents import DOCKER_AGENT
from domain.nodes import NODE
from domain.vcenter_operations import VCENTER_OPERATION, read_machine_id
from store.clock import utcnow
from store.crypto.secrets import token_hash

AGENT_TOKEN = rf"^{AGENT_TOKEN_PREFIX}[A-Za-z0-9_-]{{32}}\Z"
"""Pattern of the tokens that agents make: 24 random bytes as base64."""


class Registration(msgspec.Struct):
    registration_token: Annotated[str, Meta(min_length=1, max_length=500)]
    """Token that the server has handed to the machine."""
    agent_token: Annotated[str, Meta(pattern=AGENT_TOKEN, description="a token of agt_ and 32 characters")]
    """Random token that the agent has made. The node's agent authenticates with it from now on."""


class RegisteredMachine(msgspec.Struct):
    node_id: int
    name: str


class RegistrationController(Controller):
    path = "/agent"
    tags = ["Agents"]

    @post("/register", status_code=200, opt={**PUBLIC, "problems": (Unauthenticated, Conflict)})
    async def register_machine(self, ctx: RequestContext, data: Registration) -> RegisteredMachine:
        """Registers a machine, which the server has spawned, as a node. The registration token works once. A repeated
        request gets the same answer if it has the same `agent_token`; with another `agent_token`, it gets 401.
        """
        services = ctx.services
        found = read_registration_token(services.secrets, data.registration_token)
        if found is None:
            raise Unauthenticated(NOT_VALID)
        agent_id, registration_id = found
        if (operation_id := read_machine_id(agent_id)) is not None:
            return await register_vcenter_machine(ctx, operation_id, registration_id, data)
        command = RegisterDockerAgent(
            agent_id,
            registration_id,
            token_hash(data.agent_token),
            await services.ids.draw("nodes"),
            name_claim(ctx, agent_id),
            utcnow(),
        )
        receipt = await ctx(command, actor="system:docker-agents")
        node_id = receipt.existing(DOCKER_AGENT.at(agent_id)).node_id
        assert node_id is not None, "it has registered"
        return RegisteredMachine(node_id, receipt.existing(NODE.at(node_id)).title)


async def register_vcenter_machine(
    ctx: RequestContext, operation_id: int, registration_id: str, data: Registration
) -> RegisteredMachine:
    """Registers a virtual machine, which an operation on a vCenter has cloned, as a node."""
    operation = await ctx.services.log.load_state(VCENTER_OPERATION.at(operation_id))
    title = "" if operation is None else operation.vm_name
    node_id, claim = await ctx.services.ids.draw("nodes"), name_claim(ctx, title)
    command = RegisterVcenterMachine(
        operation_id, registration_id, token_hash(data.agent_token), node_id, claim, utcnow()
    )
    receipt = await ctx(command, actor="system:vcenter")
    registered = receipt.existing(VCENTER_OPERATION.at(operation_id)).node_id
    assert registered is not None, "it has registered"
    return RegisteredMachine(registered, title)
