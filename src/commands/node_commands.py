"""What agents of nodes are told outside of builds, and what they answer."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass

from commands.handler import Command
from domain.core.errors import NotFound, Unavailable
from domain.core.events import AnyStream, Event
from domain.node_commands import NODE_COMMAND, Kind, NodeCommand, NodeCommandCompleted, NodeCommandRequested
from domain.nodes import NODE, Node


@dataclass(frozen=True)
class RequestNodeCommand(Command):
    """`command` is a shell line for `execute`."""

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
        if node is None or node.deleted:
            raise NotFound(f"There is no node {self.node_id}.")
        if node.session is None:
            raise Unavailable(f"No agent is connected as node {node.title!r}; start it, then try again.")
        yield NodeCommandRequested(
            command_id=self.command_id,
            node_id=self.node_id,
            kind=self.kind,
            command=self.command,
            timeout_s=self.timeout_s,
        )


@dataclass(frozen=True)
class CompleteNodeCommand(Command):
    """The agent's answer; a second one is ignored."""

    command_id: int
    node_id: int
    exit_code: int | None
    stdout: str = ""
    stderr: str = ""
    truncated: bool = False
    timed_out: bool = False

    def reads(self) -> Sequence[AnyStream]:
        return (NODE_COMMAND.at(self.command_id),)

    def decide(self, command: NodeCommand | None) -> Iterable[Event]:
        # That another node has a command of this number is not this node's to know.
        if command is None or command.node_id != self.node_id:
            raise NotFound(f"There is no command {self.command_id} for this node.")
        if command.result is None:
            yield NodeCommandCompleted(
                command_id=self.command_id,
                node_id=self.node_id,
                exit_code=self.exit_code,
                stdout=self.stdout,
                stderr=self.stderr,
                truncated=self.truncated,
                timed_out=self.timed_out,
            )
