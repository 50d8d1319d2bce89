"""People."""

import pytest
from hypothesis import given

from commands.users import RegisterUser
from domain import claims, users
from domain.base import Event
from domain.claims import ClaimReleased, ClaimTaken
from domain.errors import Conflict
from domain.users import USER, UserRegistered
from tests.commands.given import commands, decided, folds, histories, is_decided_once

REGISTER = RegisterUser(7, "a@example.com", "admin", "hash", "email-1", "Ada", "L")
REGISTERED = UserRegistered(
    user_id=7, email="a@example.com", role="admin", password_hash="hash", first_name="Ada", last_name="L"
)
TAKEN = ClaimTaken(claim="email-1", owner="user-7")


def test_register() -> None:
    assert decided(REGISTER) == [TAKEN, REGISTERED]
    assert decided(REGISTER, TAKEN, REGISTERED) == []


def test_an_address_is_taken_once() -> None:
    with pytest.raises(Conflict, match=r"a@example\.com"):
        decided(REGISTER, ClaimTaken(claim="email-1", owner="user-6"))


def test_a_free_address_can_be_taken_again() -> None:
    left = (ClaimTaken(claim="email-1", owner="user-6"), ClaimReleased(claim="email-1", owner="user-6"))
    assert decided(REGISTER, *left) == [TAKEN, REGISTERED]


@given(commands(RegisterUser), histories(*users.EVENTS, *claims.EVENTS))
def test_deciding_again_does_nothing(command: RegisterUser, history: list[Event]) -> None:
    is_decided_once(command, history)


@given(histories(*users.EVENTS))
def test_folding_never_fails(history: list[Event]) -> None:
    folds(USER, history)
