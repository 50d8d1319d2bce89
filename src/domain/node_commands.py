"""Commands that an agent gets outside of builds: run a shell line for an admin, or restart.

Each command has its own stream, so loading the state of the node does not load the output of its commands.
"""

from datetime import datetime
from typing import ClassVar, Literal

import msgspec

from domain.core.data_keys import node_key
from domain.core.events import Category, Event
from domain.nodes import agent_notification

Kind = Literal["execute", "restart"]


class NodeCommandEvent(Event, frozen=True):
    command_id: int
    node_id: int

    @property
    def stream(self) -> str:
        return f"node-command-{self.command_id}"

    @property
    def data_key(self) -> str | None:
        return node_key(self.node_id)


class NodeCommandRequested(NodeCommandEvent, frozen=True):
    name: ClassVar[str] = "node.command_requested"
    sealed: ClassVar[tuple[str, ...]] = ("command",)
    kind: Kind
    command: str = ""
    timeout_s: int = 30

    @property
    def notifies(self) -> str:
        return agent_notification(self.node_id, notification_subject(self.command_id))


class NodeCommandCompleted(NodeCommandEvent, frozen=True):
    """The result of a command. `exit_code` is None when the command was killed at its timeout."""

    name: ClassVar[str] = "node.command_completed"
    sealed: ClassVar[tuple[str, ...]] = ("stdout", "stderr")
    exit_code: int | None = None
    stdout: str = ""
    stderr: str = ""
    truncated: bool = False
    timed_out: bool = False

    @property
    def notifies(self) -> str:
        return completion_notification(self.command_id)


class NodeCommand(msgspec.Struct, frozen=True):
    node_id: int
    kind: Kind
    command: str
    timeout_s: int
    requested_at: datetime
    result: NodeCommandCompleted | None = None


def evolve(state: NodeCommand | None, event: Event) -> NodeCommand | None:
    match event:
        case NodeCommandRequested():
            return NodeCommand(event.node_id, event.kind, event.command, event.timeout_s, event.at)
        case NodeCommandCompleted() if state is not None:
            return msgspec.structs.replace(state, result=event)
        case _:
            return state


def notification_subject(command_id: int) -> str:
    """Returns the text by which notifications name a command: `cmd-` followed by its id."""
    return f"cmd-{command_id}"


def completion_notification(command_id: int) -> str:
    """Returns the payload of the notification that wakes the API requests which wait for the result of a command."""
    return f"done:{command_id}"


NODE_COMMAND = Category[NodeCommand | None]("node-command", None, evolve)
EVENTS = (NodeCommandRequested, NodeCommandCompleted)
