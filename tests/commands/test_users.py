"""People."""

from typing import Any

import pytest
from hypothesis import given

from commands.users import DeleteUser, RegisterUser
from domain import claims, users
from domain.claims import ClaimReleased, ClaimTaken
from domain.core.data_keys import user_key
from domain.core.errors import Conflict, Forbidden, NotFound
from domain.core.events import Event
from domain.users import USER, UserDeleted, UserRegistered
from tests.support.given import commands, decided, folds, histories, is_decided_once

REGISTER = RegisterUser(7, "a@example.com", "admin", "hash", "email-1", "Ada", "L")
REGISTERED = UserRegistered(
    user_id=7,
    email="a@example.com",
    claim="email-1",
    role="admin",
    password_hash="hash",
    first_name="Ada",
    last_name="L",
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


ADMIN = UserRegistered(user_id=1, role="admin", email="admin@example.com", claim="email-9")
DELETED = UserDeleted(user_id=7)


def test_deleting_gives_the_address_back() -> None:
    released = ClaimReleased(claim="email-1", owner="user-7")
    assert decided(DeleteUser(7, 1), ADMIN, TAKEN, REGISTERED) == [released, DELETED]
    assert DELETED.erases == REGISTERED.data_key == user_key(7)


def test_only_who_is_there_is_deleted() -> None:
    for history in ((), (REGISTERED, DELETED)):
        with pytest.raises(NotFound, match="no user 7"):
            decided(DeleteUser(7, 1), ADMIN, *history)


def test_only_an_admin_who_stays_deletes() -> None:
    """So the last one cannot go: nor can two who delete each other at the same time."""
    with pytest.raises(Conflict, match="cannot delete yourself"):
        decided(DeleteUser(1, 1), ADMIN)
    developer = UserRegistered(user_id=1, role="developer")
    for history in ((), (developer,), (ADMIN, UserDeleted(user_id=1))):
        with pytest.raises(Forbidden):
            decided(DeleteUser(7, 1), REGISTERED, *history)


@pytest.mark.parametrize("kind", [RegisterUser, DeleteUser])
def test_deciding_again_does_nothing(kind: type[Any]) -> None:
    @given(commands(kind), histories(*users.EVENTS, *claims.EVENTS))
    def holds(command: Any, history: list[Event]) -> None:
        is_decided_once(command, history)

    holds()


@given(histories(*users.EVENTS))
def test_folding_never_fails(history: list[Event]) -> None:
    folds(USER, history)
