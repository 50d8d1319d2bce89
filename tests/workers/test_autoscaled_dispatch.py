"""Dispatchers that scale a node pool, on a real log."""

from typing import Any

import pytest

from commands.autoscaling import SetAutoscaling
from commands.build_assignment import AcknowledgeBuild
from commands.builds import FinishBuild
from commands.docker_agents import RecordDockerAgentDestroyed, RegisterDockerAgent
from commands.jobs import UpdateJob
from commands.pools import CreatePool, DeletePool
from commands.projects import CloseProject, DeleteProject
from domain.autoscaling import AUTOSCALING, Autoscaling, DockerSource, PoolScaledDown, PoolScaledUp
from domain.builds import BUILD, Assigned, Finished
from domain.core.events import Event
from domain.docker_agents import DOCKER_AGENT, DockerAgentDestroyRequested, DockerAgentRequested
from domain.nodes import NODE
from testhide.processes import Core
from tests.workers.test_dispatcher import ANN, NOW, Yard

SOURCE = DockerSource("here", "testhide/agent:1", memory_mb=512)


class ScaledYard(Yard):
    """A yard with a pool that is scaled, and a job whose builds run only there."""

    async def set_up(self) -> None:
        await super().set_up()
        await self.handler.execute(CreatePool(2, 1, "docker", "c"), ANN)
        await self.handler.execute(UpdateJob(5, node_pool_id=2), ANN)

    async def scale(self, minimum: int = 0, maximum: int = 2, *, single_use: bool = False) -> None:
        await self.handler.execute(SetAutoscaling(2, minimum, maximum, 60, SOURCE, single_use), ANN)

    async def until_scaled(self, holds: Any) -> Autoscaling:
        state: Autoscaling = await self.seen(lambda: self.parts.log.load_state(AUTOSCALING.at(2)), holds)
        return state

    async def bring_up(self, machine_id: str, node_id: int) -> None:
        """Does what the container of a machine does: its agent registers, connects and polls."""
        agent = await self.parts.log.load_state(DOCKER_AGENT.at(machine_id))
        assert agent is not None
        command = RegisterDockerAgent(machine_id, agent.registration_id, b"h", node_id, f"claim-{node_id}", NOW)
        await self.handler.execute(command, ANN)
        await self.connect(f"s{node_id}", node_id)
        await self.gauges.record_poll(node_id, f"s{node_id}", 1)

    async def run_build(self, build_id: int, node_id: int) -> None:
        state: Assigned = await self.until(build_id, lambda build: isinstance(build, Assigned))
        assert state.node_id == node_id
        await self.handler.execute(AcknowledgeBuild(build_id, node_id, 1, None), ANN)
        await self.handler.execute(FinishBuild(build_id, node_id, 1, 0, None, None), ANN)

    async def read(self, *kinds: type[Event]) -> list[Any]:
        recorded = await self.parts.log.read(0, 1_000, [kind.name for kind in kinds])
        return [one.event for one in recorded]


@pytest.fixture(name="scaled")
async def _scaled(parts: Core) -> ScaledYard:
    yard = ScaledYard(parts)
    await yard.set_up()
    return yard


async def test_two_dispatchers_spawn_no_more_machines_than_the_maximum(scaled: ScaledYard) -> None:
    await scaled.scale(maximum=3)
    async with scaled.dispatching(), scaled.dispatching():
        for build_id in range(1, 8):
            await scaled.start(build_id)
        state = await scaled.until_scaled(lambda state: len(state.machines) == 3)
    requested = await scaled.read(DockerAgentRequested)
    assert {event.agent_id for event in requested} == state.machines.keys()
    assert {(event.host, event.image, event.memory_mb, event.pool_id) for event in requested} == {
        ("here", "testhide/agent:1", 512, 2)
    }
    first, *_ = await scaled.read(PoolScaledUp)
    assert "for a free node" in first.reason


async def test_a_machine_and_its_decision_are_in_one_transaction(scaled: ScaledYard) -> None:
    await scaled.scale(minimum=2)
    async with scaled.dispatching():
        await scaled.until_scaled(lambda state: len(state.machines) == 2)
    names = [PoolScaledUp.name, DockerAgentRequested.name]
    up, *requested = await scaled.parts.log.read(0, 10, names)
    assert [one.position for one in requested] == [up.position + 1, up.position + 2]


async def test_a_machine_for_one_build_goes_after_it_and_the_next_build_gets_another(scaled: ScaledYard) -> None:
    await scaled.scale(maximum=1, single_use=True)
    await scaled.start(1)
    await scaled.start(2)
    async with scaled.dispatching():
        (machine_id,) = (await scaled.until_scaled(lambda state: state.machines)).machines
        await scaled.bring_up(machine_id, 11)
        await scaled.run_build(1, 11)
        await scaled.until_scaled(lambda state: state.machines == {machine_id: True})
        node = await scaled.parts.log.load_state(NODE.at(11))
        assert node is not None
        assert node.quarantined
        await scaled.handler.execute(RecordDockerAgentDestroyed(machine_id), ANN)
        state = await scaled.until_scaled(lambda state: state.machines and machine_id not in state.machines)
        (second,) = state.machines
        await scaled.bring_up(second, 12)
        await scaled.run_build(2, 12)
        await scaled.until_scaled(lambda state: state.machines == {second: True})
    downs = await scaled.read(PoolScaledDown)
    assert [(event.machine_id, event.reason) for event in downs] == [
        (machine_id, "it has had its only build"),
        (second, "it has had its only build"),
    ]


async def test_a_busy_machine_stays_and_an_idle_one_goes(scaled: ScaledYard) -> None:
    await scaled.scale()
    await scaled.start(1)
    await scaled.start(2)
    async with scaled.dispatching():
        machines = sorted((await scaled.until_scaled(lambda state: len(state.machines) == 2)).machines)
        for node_id, machine_id in enumerate(machines, 11):
            await scaled.bring_up(machine_id, node_id)
        builds = [await scaled.until(build_id, lambda build: isinstance(build, Assigned)) for build_id in (1, 2)]
        for build_id, build in enumerate(builds, 1):
            await scaled.handler.execute(AcknowledgeBuild(build_id, build.node_id, 1, None), ANN)
        await scaled.handler.execute(FinishBuild(1, builds[0].node_id, 1, 0, None, None), ANN)
        # By the clock of the log, the machine has been idle for months.
        idle = machines[builds[0].node_id - 11]
        await scaled.until_scaled(lambda state: state.machines[idle])
        second = await scaled.parts.log.load_state(BUILD.at(2))
        assert not isinstance(second, Finished)
    assert [event.agent_id for event in await scaled.read(DockerAgentDestroyRequested)] == [idle]


async def test_a_new_leader_goes_on_where_the_last_one_was(scaled: ScaledYard) -> None:
    await scaled.scale(minimum=2, maximum=2)
    async with scaled.dispatching():
        machines = (await scaled.until_scaled(lambda state: len(state.machines) == 2)).machines
    await scaled.start(1)
    async with scaled.dispatching():
        await scaled.bring_up(next(iter(machines)), 11)
        await scaled.run_build(1, 11)
    assert len(await scaled.read(DockerAgentRequested)) == 2


async def test_the_machines_of_a_deleted_project_go(scaled: ScaledYard) -> None:
    await scaled.scale(minimum=1)
    async with scaled.dispatching():
        (machine_id,) = (await scaled.until_scaled(lambda state: state.machines)).machines
        await scaled.bring_up(machine_id, 11)
        for command in (CloseProject(1), DeletePool(2, [11]), DeleteProject(1, [5])):
            await scaled.handler.execute(command, ANN)
        await scaled.until_scaled(lambda state: state.machines == {machine_id: True})
        await scaled.handler.execute(RecordDockerAgentDestroyed(machine_id), ANN)
        await scaled.until_scaled(lambda state: not state.machines)
    (down,) = await scaled.read(PoolScaledDown)
    assert down.reason == "the node pool was deleted"
