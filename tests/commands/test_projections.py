"""Tests of dismissing events that a read model cannot apply."""

from typing import Any

import hypothesis

from commands.projections import DismissEvent
from domain import projections
from domain.core.events import Event
from domain.projections import PROJECTION, EventDismissed
from tests.support.spec import folds, given, is_decided_once
from tests.support.strategies import commands, histories

DISMISS = DismissEvent("builds", 12, "poison", "ann")
DISMISSED = EventDismissed(projection="builds", position=12, reason="poison", operator="ann")


def test_an_event_is_dismissed_once() -> None:
    given().when(DISMISS).then(DISMISSED)
    given(DISMISSED).when(DISMISS).then_nothing()
    assert PROJECTION.at("builds").fold([DISMISSED]) == {12}


@hypothesis.given(commands(DismissEvent), histories(*projections.EVENTS))
def test_deciding_again_does_nothing(command: Any, history: list[Event]) -> None:
    is_decided_once(command, history)


@hypothesis.given(histories(*projections.EVENTS))
def test_folding_never_fails(history: list[Event]) -> None:
    folds(PROJECTION, history)
