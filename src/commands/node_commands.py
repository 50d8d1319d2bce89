"""Requests commands for the agent of a node, and records their results."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from commands.handler import Command, must_exist
from domain.core.errors import NotFound, Unavailable
from domain.core.events import AnyStream, Event
from domain.node_commands import NODE_COMMAND, Kind, NodeCommand, NodeCommandCompleted, NodeCommandRequested
from domain.nodes import NODE, Node


@dataclass(frozen=True)
class RequestNodeCommand(Command):
    """Requests that a node's agent carries out a command. For the kind `execute`, `command` is the shell line."""

    command_id: int
    node_id: int
    kind: Kind
    command: str = ""
    timeout_s: int = 30

    def reads(self) -> Sequence[AnyStream]:
        return NODE_COMMAND.at(self.command_id), NODE.at(self.node_id)

    def decide(self, command: NodeCommand | None, node: Node | None) -> Iterable[Event]:
        if command is not None:
            return
        node = must_exist(node, f"node {self.node_id}")
        if node.session is None:
            raise Unavailable(f"No agent is connected as node {node.title!r}; start it, then try again.")
        yield self.event(NodeCommandRequested)


@dataclass(frozen=True)
class CompleteNodeCommand(Command, of=NODE_COMMAND):
    """Records the result that the agent reports. Ignores a second result."""

    command_id: int
    node_id: int
    exit_code: int | None
    stdout: str = ""
    stderr: str = ""
    truncated: bool = False
    timed_out: bool = False

    def decide(self, command: NodeCommand | None) -> Iterable[Event]:
        # A command for another node gets the same answer as an unknown one.
        if command is None or command.node_id != self.node_id:
            raise NotFound(f"There is no command {self.command_id} for this node.")
        if command.result is None:
            yield self.event(NodeCommandCompleted)
