"""New signing keys: decided once, and only instead of the key that was seen."""

from typing import Any

import pytest
from hypothesis import given

from commands.sealing import ChangeSigningKey
from domain import sealing
from domain.core.errors import Conflict
from domain.core.events import Event
from domain.sealing import SIGNING_KEY, SigningKeyChanged
from tests.support.given import commands, decided, folds, histories, is_decided_once

FIRST = SigningKeyChanged(public_key="a")


def test_the_first_key_is_instead_of_none() -> None:
    assert decided(ChangeSigningKey("a", None)) == [FIRST]
    with pytest.raises(Conflict, match="look at it and try again"):
        decided(ChangeSigningKey("b", None), FIRST)


def test_a_key_is_changed_from_the_one_that_was_seen() -> None:
    second = SigningKeyChanged(public_key="b")
    assert decided(ChangeSigningKey("b", "a"), FIRST) == [second]
    assert decided(ChangeSigningKey("b", "a"), FIRST, second) == []
    with pytest.raises(Conflict):
        decided(ChangeSigningKey("c", "a"), FIRST, second)
    assert SIGNING_KEY.fold([FIRST, second]) == "b"


@given(commands(ChangeSigningKey), histories(*sealing.EVENTS))
def test_deciding_again_does_nothing(command: Any, history: list[Event]) -> None:
    is_decided_once(command, history)


@given(histories(*sealing.EVENTS))
def test_folding_never_fails(history: list[Event]) -> None:
    folds(SIGNING_KEY.category, history)
