"""Users: the people with an account on the server."""

from typing import ClassVar, Literal

import msgspec

from domain.core.data_keys import user_key
from domain.core.events import Category, Event, copy_fields

Role = Literal["admin", "developer", "viewer"]


class UserEvent(Event, frozen=True):
    user_id: int

    @property
    def stream(self) -> str:
        return f"user-{self.user_id}"

    @property
    def data_key(self) -> str | None:
        return user_key(self.user_id)


class UserRegistered(UserEvent, frozen=True):
    name: ClassVar[str] = "user.registered"
    sealed: ClassVar[tuple[str, ...]] = ("email", "password_hash", "first_name", "last_name")
    role: Role
    email: str = ""
    claim: str = ""
    """The claim of the email address."""
    password_hash: str = ""
    """Argon2id in its usual encoding; empty while an invitation is open."""
    first_name: str = ""
    last_name: str = ""


class UserPasswordSet(UserEvent, frozen=True):
    name: ClassVar[str] = "user.password_set"
    sealed: ClassVar[tuple[str, ...]] = ("password_hash",)
    password_hash: str = ""
    """Argon2id in its usual encoding."""


class UserDeleted(UserEvent, frozen=True):
    """The user was deleted; their events stay in the log under their id."""

    name: ClassVar[str] = "user.deleted"
    destroys_key: ClassVar[bool] = True


class UserAccount(msgspec.Struct, frozen=True):
    user_id: int
    email: str
    role: Role
    claim: str = ""
    deleted: bool = False


def evolve(state: UserAccount | None, event: Event) -> UserAccount | None:
    match event:
        case UserRegistered():
            return copy_fields(UserAccount, event)
        case UserDeleted() if state is not None:
            return msgspec.structs.replace(state, deleted=True)
        case _:
            return state


USER = Category[UserAccount | None]("user", None, evolve)
EVENTS = (UserRegistered, UserPasswordSet, UserDeleted)
