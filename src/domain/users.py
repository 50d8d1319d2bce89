"""Users: the people with an account on the server."""

from datetime import datetime
from typing import ClassVar, Literal

import msgspec

from domain.core.data_keys import user_key
from domain.core.events import Category, Event, changes_of, copy_fields

Role = Literal["admin", "developer", "viewer"]
ROLE_RANK: dict[str, int] = {"viewer": 1, "developer": 2, "admin": 3}
LinkPurpose = Literal["invitation", "reset"]


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
    """Id of the claim that keeps the email address unique."""
    password_hash: str = ""
    """Argon2id hash in its usual encoding; empty while an invitation is open."""
    first_name: str = ""
    last_name: str = ""


class UserPasswordSet(UserEvent, frozen=True):
    name: ClassVar[str] = "user.password_set"
    sealed: ClassVar[tuple[str, ...]] = ("password_hash",)
    password_hash: str = ""
    """Argon2id hash in its usual encoding."""


class PasswordLinkIssued(UserEvent, frozen=True):
    """The user got a link to set a password. The link works once, and the next link makes it invalid.

    The link's token is computed from `link_id` with the server's secret key, and is stored nowhere.
    """

    name: ClassVar[str] = "user.password_link_issued"
    purpose: LinkPurpose
    link_id: str
    expires_at: datetime


class UserUpdated(UserEvent, frozen=True):
    """The user was changed. A field that is None is unchanged. Making a user inactive ends their sessions and API
    tokens.
    """

    name: ClassVar[str] = "user.updated"
    sealed: ClassVar[tuple[str, ...]] = ("first_name", "last_name")
    role: Role | None = None
    active: bool | None = None
    can_manage_nodes: bool | None = None
    first_name: str | None = None
    last_name: str | None = None


class UserSignedOut(UserEvent, frozen=True):
    """All sessions of the user were ended. Their API tokens stay valid."""

    name: ClassVar[str] = "user.signed_out"


class IdentityLinked(UserEvent, frozen=True):
    """An identity, a name at an identity provider, was linked to the user. The user may sign in by it."""

    name: ClassVar[str] = "user.identity_linked"
    sealed: ClassVar[tuple[str, ...]] = ("name_id",)
    provider_id: int
    claim: str
    """Id of the claim that keeps the identity unique."""
    name_id: str = ""
    manages_role: bool = False
    """Whether the provider also decides the user's role."""


class IdentityUnlinked(UserEvent, frozen=True):
    """The user can no longer sign in by this identity provider."""

    name: ClassVar[str] = "user.identity_unlinked"
    provider_id: int
    claim: str


class UserDeleted(UserEvent, frozen=True):
    """The user was deleted. Other events still refer to the user by id."""

    name: ClassVar[str] = "user.deleted"
    destroys_key: ClassVar[bool] = True


class PasswordLink(msgspec.Struct, frozen=True):
    link_id: str
    expires_at: datetime


class Identity(msgspec.Struct, frozen=True):
    provider_id: int
    claim: str
    manages_role: bool = False


class UserAccount(msgspec.Struct, frozen=True):
    user_id: int
    email: str
    role: Role
    claim: str = ""
    first_name: str = ""
    last_name: str = ""
    active: bool = True
    can_manage_nodes: bool = False
    password_hash: str = ""
    """Argon2id hash in its usual encoding; empty until the user has accepted the invitation."""
    link: PasswordLink | None = None
    """The newest link to set a password; None if there was none, or if it was used or became invalid. The link may have
    expired.
    """
    identities: tuple[Identity, ...] = ()
    """Identities by which the user may sign in, at most one of each provider."""
    deleted: bool = False

    def identity_at(self, provider_id: int) -> Identity | None:
        return next((identity for identity in self.identities if identity.provider_id == provider_id), None)

    @property
    def is_active_admin(self) -> bool:
        return self.role == "admin" and self.active and not self.deleted

    @property
    def can_sign_in_as_admin(self) -> bool:
        """Whether the user is an active admin who can sign in, by a password or an identity. An admin whose invitation
        is open cannot.
        """
        return self.is_active_admin and (bool(self.password_hash) or bool(self.identities))


def evolve(state: UserAccount | None, event: Event) -> UserAccount | None:
    match event:
        case UserRegistered():
            return copy_fields(UserAccount, event)
        case PasswordLinkIssued() if state is not None:
            return msgspec.structs.replace(state, link=copy_fields(PasswordLink, event))
        case UserPasswordSet() if state is not None:
            return msgspec.structs.replace(state, password_hash=event.password_hash, link=None)
        case UserUpdated() if state is not None:
            link = None if event.active is False else state.link
            return msgspec.structs.replace(state, **changes_of(event), link=link)
        case IdentityLinked() if state is not None:
            return msgspec.structs.replace(state, identities=(*state.identities, copy_fields(Identity, event)))
        case IdentityUnlinked() if state is not None:
            kept = tuple(identity for identity in state.identities if identity.claim != event.claim)
            return msgspec.structs.replace(state, identities=kept)
        case UserDeleted() if state is not None:
            return msgspec.structs.replace(state, deleted=True)
        case _:
            return state


USER = Category[UserAccount | None]("user", None, evolve)
EVENTS = (
    UserRegistered,
    PasswordLinkIssued,
    UserPasswordSet,
    UserUpdated,
    UserSignedOut,
    IdentityLinked,
    IdentityUnlinked,
    UserDeleted,
)
