"""People."""

from typing import Any

import hypothesis
import pytest

from commands.users import DeleteUser, RegisterUser, SetPassword
from domain import claims, users
from domain.claims import ClaimReleased, ClaimTaken
from domain.core.data_keys import user_key
from domain.core.errors import Conflict, Forbidden, NotFound
from domain.core.events import Event
from domain.users import USER, UserDeleted, UserPasswordSet, UserRegistered
from tests.support.spec import folds, given, is_decided_once
from tests.support.strategies import commands, histories

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
    given().when(REGISTER).then(TAKEN, REGISTERED)
    given(TAKEN, REGISTERED).when(REGISTER).then_nothing()


def test_an_address_is_taken_once() -> None:
    with pytest.raises(Conflict, match=r"a@example\.com"):
        given(ClaimTaken(claim="email-1", owner="user-6")).when(REGISTER)


def test_a_free_address_can_be_taken_again() -> None:
    left = (ClaimTaken(claim="email-1", owner="user-6"), ClaimReleased(claim="email-1", owner="user-6"))
    given(*left).when(REGISTER).then(TAKEN, REGISTERED)


ADMIN = UserRegistered(user_id=1, role="admin", email="admin@example.com", claim="email-9")
DELETED = UserDeleted(user_id=7)


def test_deleting_gives_the_address_back() -> None:
    released = ClaimReleased(claim="email-1", owner="user-7")
    given(ADMIN, TAKEN, REGISTERED).when(DeleteUser(7, 1)).then(released, DELETED)
    assert DELETED.erases == REGISTERED.data_key == user_key(7)


def test_a_password_is_set_for_who_is_there() -> None:
    given(REGISTERED).when(SetPassword(7, "new")).then(UserPasswordSet(user_id=7, password_hash="new"))
    for history in ((), (REGISTERED, DELETED)):
        with pytest.raises(NotFound, match="no user 7"):
            given(*history).when(SetPassword(7, "new"))


def test_only_who_is_there_is_deleted() -> None:
    for history in ((), (REGISTERED, DELETED)):
        with pytest.raises(NotFound, match="no user 7"):
            given(ADMIN, *history).when(DeleteUser(7, 1))


def test_only_an_admin_who_stays_deletes() -> None:
    """So the last one cannot go: nor can two who delete each other at the same time."""
    with pytest.raises(Conflict, match="cannot delete yourself"):
        given(ADMIN).when(DeleteUser(1, 1))
    developer = UserRegistered(user_id=1, role="developer")
    for history in ((), (developer,), (ADMIN, UserDeleted(user_id=1))):
        with pytest.raises(Forbidden):
            given(REGISTERED, *history).when(DeleteUser(7, 1))


@pytest.mark.parametrize("kind", [RegisterUser, DeleteUser])
def test_deciding_again_does_nothing(kind: type[Any]) -> None:
    @hypothesis.given(commands(kind), histories(*users.EVENTS, *claims.EVENTS))
    def holds(command: Any, history: list[Event]) -> None:
        is_decided_once(command, history)

    holds()


@hypothesis.given(histories(*users.EVENTS))
def test_folding_never_fails(history: list[Event]) -> None:
    folds(USER, history)
