"""Tests of cancelling reactions to events."""

from typing import Any

import hypothesis

from commands.reactions import CancelReaction
from domain import reactions
from domain.core.events import Event
from domain.reactions import REACTION, ReactionCancelled
from tests.support.spec import folds, given, is_decided_once
from tests.support.strategies import commands, histories

CANCEL = CancelReaction("mail_a_password_link", 12, "wrong address", "ann")
CANCELLED = ReactionCancelled(reaction="mail_a_password_link", position=12, reason="wrong address", operator="ann")


def test_a_reaction_is_cancelled_once() -> None:
    given().when(CANCEL).then(CANCELLED)
    given(CANCELLED).when(CANCEL).then_nothing()
    assert REACTION.at("mail_a_password_link").fold([CANCELLED]) == {12}


@hypothesis.given(commands(CancelReaction), histories(*reactions.EVENTS))
def test_deciding_again_does_nothing(command: Any, history: list[Event]) -> None:
    is_decided_once(command, history)


@hypothesis.given(histories(*reactions.EVENTS))
def test_folding_never_fails(history: list[Event]) -> None:
    folds(REACTION, history)
