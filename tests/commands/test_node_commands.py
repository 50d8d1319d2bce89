"""Commands for agents, and their answers."""

from typing import Any

import hypothesis
import pytest

from commands.node_commands import CompleteNodeCommand, RequestNodeCommand
from domain import node_commands, nodes
from domain.core.errors import NotFound, Unavailable
from domain.core.events import Event
from domain.node_commands import NODE_COMMAND, NodeCommandCompleted, NodeCommandRequested
from domain.nodes import NodeConnected, NodeDeleted, NodeRegistered, NodeWentOffline
from tests.support.spec import folds, given, is_decided_once
from tests.support.strategies import commands, histories

REGISTERED = NodeRegistered(node_id=7, title="agent-01")
CONNECTED = NodeConnected(node_id=7, session="s", version="1", platform="linux", hostname="h", cpu_cores=8, ram_gb=16.0)
EXECUTE = RequestNodeCommand(3, 7, "execute", "df -h /", 10)
REQUESTED = NodeCommandRequested(command_id=3, node_id=7, kind="execute", command="df -h /", timeout_s=10)
ANSWER = CompleteNodeCommand(3, 7, 0, "out", "err")
COMPLETED = NodeCommandCompleted(command_id=3, node_id=7, exit_code=0, stdout="out", stderr="err")


def test_request() -> None:
    given(REGISTERED, CONNECTED).when(EXECUTE).then(REQUESTED)
    given(REGISTERED, CONNECTED, REQUESTED).when(EXECUTE).then_nothing()
    assert REQUESTED.notifies == "7:cmd-3"


def test_somebody_must_be_there_to_hear_it() -> None:
    for history in ((REGISTERED,), (REGISTERED, CONNECTED, NodeWentOffline(node_id=7, session="s", reason="silent"))):
        with pytest.raises(Unavailable, match="agent-01"):
            given(*history).when(EXECUTE)


@pytest.mark.parametrize("history", [(), (REGISTERED, CONNECTED, NodeDeleted(node_id=7))])
def test_there_is_no_such_node(history: tuple[Event, ...]) -> None:
    with pytest.raises(NotFound):
        given(*history).when(EXECUTE)


def test_only_the_first_answer_counts() -> None:
    given(REQUESTED).when(ANSWER).then(COMPLETED)
    given(REQUESTED, COMPLETED).when(CompleteNodeCommand(3, 7, 1, "other")).then_nothing()


@pytest.mark.parametrize("command", [ANSWER, CompleteNodeCommand(3, 8, 0)])
def test_nobody_answers_for_another_node(command: Any) -> None:
    other = NodeCommandRequested(command_id=3, node_id=9, kind="restart")
    for history in ((), (other,)):
        with pytest.raises(NotFound):
            given(*history).when(command)


@pytest.mark.parametrize("kind", [RequestNodeCommand, CompleteNodeCommand])
def test_deciding_again_does_nothing(kind: type[Any]) -> None:
    @hypothesis.given(commands(kind), histories(*node_commands.EVENTS, *nodes.EVENTS))
    def holds(command: Any, history: list[Event]) -> None:
        is_decided_once(command, history)

    holds()


@hypothesis.given(histories(*node_commands.EVENTS))
def test_folding_never_fails(history: list[Event]) -> None:
    folds(NODE_COMMAND, history)
