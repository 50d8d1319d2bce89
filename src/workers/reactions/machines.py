"""Reactions that carry out operations on containers of Docker agents, and on vCenters."""

from domain.core.events import Event
from domain.docker_agents import (
    DockerAgentDestroyRequested,
    DockerAgentEvent,
    DockerAgentRequested,
    DockerAgentStartRequested,
    DockerAgentStopRequested,
)
from domain.vcenter import VcenterCreated, VcenterEvent, VcenterUpdated
from domain.vcenter_operations import CARRYING_OUT, VcenterOperationRequested
from store.tables.reactions import RetryPolicy
from workers.docker_agents import DockerDelayed
from workers.reactions.reaction import Reaction, RetryLater, Tools
from workers.vcenter import OperationInterrupted

DOCKER_PAUSE_S = 5.0
"""Seconds until an operation on a container is tried again if its Docker host does not answer."""
VCENTER_PAUSE_S = 5.0
"""Seconds until a worker tries to go on with an operation during which the vCenter stopped answering."""
DOCKER_LIMIT_S = 600
"""Time limit of an operation on a container, in seconds. The Docker host may have to pull an image first."""
VCENTER_LIMIT_S = 4_000
"""Time limit of an operation on a vCenter, in seconds. Cloning a machine with large disks may take an hour."""
VCENTER_RETRIES = RetryPolicy(tries=10, max_pause_s=60)
"""Retries of an operation on a vCenter after a fault of this server. A failure of the vCenter is not retried: the
operation then fails, too.
"""


async def when_docker_operation_requested_carry_it_out(event: Event, tools: Tools) -> None:
    assert isinstance(event, DockerAgentEvent)
    if tools.docker is None:
        return
    try:
        await tools.docker.operate(event.agent_id)
    except DockerDelayed as error:
        raise RetryLater(DOCKER_PAUSE_S, str(error)) from None


async def when_vcenter_changed_check_it(event: Event, tools: Tools) -> None:
    assert isinstance(event, VcenterEvent)
    if tools.vcenters is not None:
        await tools.vcenters.check(event.vcenter_id)


async def when_vcenter_operation_requested_carry_it_out(event: Event, tools: Tools) -> None:
    assert isinstance(event, VcenterOperationRequested)
    if tools.vcenters is not None:
        try:
            await tools.vcenters.carry_out(event.operation_id, tools.on_progress)
        except OperationInterrupted as error:
            raise RetryLater(VCENTER_PAUSE_S, str(error)) from None


MACHINE_REACTIONS = (
    *(
        Reaction(
            name, event, when_vcenter_changed_check_it, "vcenter", VCENTER_LIMIT_S, VCENTER_RETRIES, repeats_old=False
        )
        for name, event in (("check_a_new_vcenter", VcenterCreated), ("check_a_changed_vcenter", VcenterUpdated))
    ),
    Reaction(
        CARRYING_OUT,
        VcenterOperationRequested,
        when_vcenter_operation_requested_carry_it_out,
        "vcenter",
        VCENTER_LIMIT_S,
        VCENTER_RETRIES,
        repeats_old=False,
    ),
    *(
        Reaction(
            name,
            event,
            when_docker_operation_requested_carry_it_out,
            "docker",
            DOCKER_LIMIT_S,
            repeats_old=False,
        )
        for name, event in (
            ("spawn_a_docker_agent", DockerAgentRequested),
            ("start_a_docker_agent", DockerAgentStartRequested),
            ("stop_a_docker_agent", DockerAgentStopRequested),
            ("destroy_a_docker_agent", DockerAgentDestroyRequested),
        )
    ),
)
