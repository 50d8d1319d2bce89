"""Two dispatchers that believe to lead, in any order of their steps: the log keeps the maximum and the builds."""

from collections.abc import Iterator
from datetime import timedelta
from functools import reduce
from itertools import count
from typing import Any

from hypothesis import given, settings
from hypothesis import strategies as st

from commands.autoscaling import MachineRegistration, SetAutoscaling
from commands.build_assignment import AssignBuild, LoseBuild, TakeLeadership
from commands.docker_agents import DestroyDockerAgent
from commands.handler import Command
from domain.autoscaling import AUTOSCALING, DockerSource, PoolScaledUp
from domain.builds import BUILD, Assigned, BuildAssigned, BuildFinished
from domain.core.errors import Rejection
from domain.core.events import Event, EventMetadata, LoadedState
from domain.docker_agents import (
    DockerAgentDestroyed,
    DockerAgentDestroyRequested,
    DockerAgentFailed,
    DockerAgentRegistered,
    DockerAgentRequested,
    DockerAgentStarted,
)
from domain.nodes import NODE, NodeDeleted, NodeRegistered, NodeWentOffline
from tests.workers.test_dispatch_state import NOW, connected, ids, job, pool, queued
from workers.dispatch.autoscaling import NewIds, decide_scaling
from workers.dispatch.autoscaling_state import AutoscalingState
from workers.dispatch.dispatch_state import DispatchState
from workers.dispatch.placement import place_builds

SOURCE = DockerSource("here", "testhide/agent:1")
MAXIMUM = 3
DISPATCHERS = ("first", "second")


class Log:
    """A log in memory. Checks each event as it is appended."""

    def __init__(self) -> None:
        self.events: list[Event] = []
        self.now = NOW
        self.machines: set[str] = set()
        """Machines that were requested and are not gone."""
        self.nodes: dict[str, int] = {}
        self.going: set[str] = set()
        """Machines that it was requested to destroy."""

    def fold(self, stream: Any) -> Any:
        assert not isinstance(stream, LoadedState)
        events = (event for event in self.events if event.stream == stream.name)
        return reduce(stream.category.evolve, events, stream.category.initial)

    def execute(self, command: Command) -> None:
        """Executes a command, as the handler does: whatever its streams have got meanwhile, it is decided on that."""
        states = [self.fold(stream) for stream in command.reads()]
        states += [self.fold(stream) for stream in command.then_reads(*states)]
        for event in list(command.decide(*states)):
            self.append(event)

    def append(self, event: Event) -> None:
        stamped = EventMetadata(self.now, "system:tests").on(event)
        match stamped:
            case DockerAgentRequested():
                self.machines.add(stamped.agent_id)
                assert len(self.machines) <= MAXIMUM, "more machines than the maximum"
            case DockerAgentRegistered():
                self.nodes[stamped.agent_id] = stamped.node_id
            case DockerAgentDestroyRequested():
                assert not self.builds_on(self.nodes.get(stamped.agent_id)), "the machine of a build is destroyed"
                self.going.add(stamped.agent_id)
            case DockerAgentDestroyed():
                self.machines.discard(stamped.agent_id)
            case BuildAssigned():
                self._check_assignment(stamped)
            case _:
                pass
        self.events.append(stamped)

    def _check_assignment(self, event: BuildAssigned) -> None:
        node = self.fold(NODE.at(event.node_id))
        going = {self.nodes.get(machine_id) for machine_id in self.going}
        assert event.node_id not in going, "a build is assigned to a machine that is being destroyed"
        if node.single_use:
            had = [one for one in self.events if isinstance(one, BuildAssigned) and one.node_id == event.node_id]
            assert not had, "a machine for one build gets a second one"

    def builds_on(self, node_id: int | None) -> list[int]:
        """Returns the ids of the builds that are assigned to this node or run on it."""
        found = {event.build_id for event in self.events if isinstance(event, BuildAssigned)}
        states = (self.fold(BUILD.at(build_id)) for build_id in found)
        return [state.build_id for state in states if isinstance(state, Assigned) and state.node_id == node_id]


class FakeDispatcher:
    """The rounds of a dispatcher, with its real decisions. Each step ends before the next command is executed."""

    def __init__(self, log: Log, name: str, numbers: Iterator[int]) -> None:
        self.log, self.name, self.numbers = log, name, numbers
        self.steps = self.run()

    def step(self) -> None:
        try:
            next(self.steps)
        except Rejection:
            self.steps = self.run()  # it has lost the lead, and leads again

    def run(self) -> Iterator[None]:
        log = self.log
        leader = f"{self.name}-{next(self.numbers)}"
        log.execute(TakeLeadership(leader))
        state, scaling, read = DispatchState(), AutoscalingState(), 0
        yield
        while True:
            read = self._drain(state, scaling, read)
            commands = decide_scaling(state, scaling, leader, log.now, NewIds(self._new_machine, []))
            for command in commands:
                yield
                log.execute(command)
            if commands:
                read = self._drain(state, scaling, read)
            for node_id, node in state.nodes.items():
                state.polled(node_id, int(node.session is not None))
            for lost in state.lost_builds():
                yield
                if lost.node_id is not None:
                    log.execute(LoseBuild(lost.build.build_id, lost.node_id, lost.build.attempt, "agent_lost"))
            for build, node_id in place_builds(state, log.now):
                yield
                log.execute(AssignBuild(build.build_id, node_id, leader, 2))
            yield

    def _drain(self, state: DispatchState, scaling: AutoscalingState, read: int) -> int:
        for event in self.log.events[read:]:
            state.apply(event)
            scaling.apply(event)
        return len(self.log.events)

    def _new_machine(self) -> MachineRegistration:
        return MachineRegistration(f"m{next(self.numbers)}", "r", self.log.now + timedelta(minutes=10))


class World:
    """What happens besides: builds are queued and end, containers come up, fail and go, users destroy machines."""

    def __init__(self, single_use: bool) -> None:
        self.log = log = Log()
        self.numbers = count(1)
        log.append(job())
        log.append(pool(2))
        log.execute(SetAutoscaling(2, 0, MAXIMUM, 10, SOURCE, single_use))
        self.dispatchers = [FakeDispatcher(log, name, self.numbers) for name in DISPATCHERS]

    def take_step(self, action: str, pick: int) -> None:
        match action:
            case "first" | "second":
                self.dispatchers[DISPATCHERS.index(action)].step()
            case "queue":
                self.log.append(queued(next(self.numbers), pool=2))
            case "finish":
                self._finish(pick)
            case "wait":
                self.log.now += timedelta(seconds=20)
            case _:
                self._change_machine(action, pick)

    def _finish(self, pick: int) -> None:
        running = [build for node_id in self.log.nodes.values() for build in self.log.builds_on(node_id)]
        if running:
            build_id = running[pick % len(running)]
            node_id = self.log.fold(BUILD.at(build_id)).node_id
            self.log.append(BuildFinished(**ids(build_id), status="passed", node_id=node_id))

    def _change_machine(self, action: str, pick: int) -> None:
        log = self.log
        machines = sorted(log.machines)
        if not machines:
            return
        machine_id = machines[pick % len(machines)]
        node_id = log.nodes.get(machine_id)
        going = machine_id in log.going
        if action == "start" and node_id is None and not going:
            self._start(machine_id)
        elif action == "fail" and not going:
            log.append(DockerAgentFailed(agent_id=machine_id, error="it was killed"))
            self._take_offline(node_id)
        elif action == "destroy" and not going and node_id is None:
            log.execute(DestroyDockerAgent(machine_id))  # by a user
        elif action == "remove" and going:
            if node_id is not None:
                log.append(NodeDeleted(node_id=node_id))
            log.append(DockerAgentDestroyed(agent_id=machine_id))

    def _start(self, machine_id: str) -> None:
        log, node_id = self.log, next(self.numbers)
        requested = next(
            event for event in log.events if isinstance(event, DockerAgentRequested) and event.agent_id == machine_id
        )
        log.append(DockerAgentStarted(agent_id=machine_id, container_id="c", run="t"))
        registered: dict[str, Any] = {"node_id": node_id, "title": machine_id, "pool_id": 2}
        log.append(NodeRegistered(**registered, single_use=requested.single_use))
        log.append(DockerAgentRegistered(agent_id=machine_id, node_id=node_id))
        log.append(connected(node_id))

    def _take_offline(self, node_id: int | None) -> None:
        if node_id is not None:
            self.log.append(NodeWentOffline(node_id=node_id, session="s1", reason="its container has ended"))


ACTIONS = [
    *["first"] * 4,
    *["second"] * 3,
    "queue",
    "start",
    *["finish"] * 2,
    "fail",
    "destroy",
    "remove",
    *["wait"] * 2,
]


@given(st.booleans(), st.lists(st.tuples(st.sampled_from(ACTIONS), st.integers(0, 9)), min_size=20, max_size=90))
@settings(max_examples=150, deadline=None)
def test_neither_the_maximum_is_exceeded_nor_a_build_loses_its_machine(
    single_use: bool, actions: list[tuple[str, int]]
) -> None:
    world = World(single_use)
    for action in ("queue", "queue", "queue", "queue", *("first", "start", "start") * 5):
        world.take_step(action, len(action))
    for action, pick in actions:
        world.take_step(action, pick)


def test_a_pool_scales_up_and_down() -> None:
    """Without races: the model itself does what it is for."""
    world = World(False)
    for _ in range(8):
        world.take_step("queue", 0)
    for _ in range(400):
        for action in ("first", "start", "finish", "remove", "wait"):
            world.take_step(action, 0)
    log = world.log
    assert sum(len(event.machine_ids) for event in log.events if isinstance(event, PoolScaledUp)) >= MAXIMUM
    assert len([event for event in log.events if isinstance(event, BuildFinished)]) == 8
    assert not log.machines
    assert not log.fold(AUTOSCALING.at(2)).machines
