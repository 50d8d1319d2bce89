"""Commands on sessions and API tokens: open, create, revoke."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime
from typing import TypeGuard

from commands.handler import Command
from domain.auth import (
    API_TOKEN,
    SESSION,
    ApiTokenCreated,
    ApiTokenRevoked,
    Scope,
    SessionOpened,
    SessionRevoked,
    Validity,
)
from domain.core.errors import NotFound, Unauthenticated
from domain.core.events import AnyStream, Event
from domain.users import USER, UserAccount


@dataclass(frozen=True)
class OpenSession(Command):
    """Opens a login session for a user who has been authenticated. Raises Unauthenticated if the account is no longer
    active or has got another password. This is checked here since the caller has authenticated the user by read models,
    which may be behind the log.
    """

    session_id: str
    user_id: int
    expires_at: datetime
    password_hash: str | None = None
    """Hash of the password by which the user was authenticated; None if the user was authenticated in another way."""

    def reads(self) -> Sequence[AnyStream]:
        return SESSION.at(self.session_id), USER.at(self.user_id)

    def decide(self, session: Validity, user: UserAccount | None) -> Iterable[Event]:
        if session != "unknown":
            return
        if not _may_sign_in(user) or self.password_hash not in (None, user.password_hash):
            raise Unauthenticated("The account or its password has changed meanwhile; sign in again.")
        yield self.event(SessionOpened)


@dataclass(frozen=True)
class RevokeSession(Command, of=SESSION):
    session_id: str
    user_id: int

    def decide(self, session: Validity) -> Iterable[Event]:
        if session == "valid":
            yield self.event(SessionRevoked)


@dataclass(frozen=True)
class CreateApiToken(Command):
    token_id: int
    user_id: int
    label: str
    token_hash: bytes
    scopes: Sequence[Scope] = ()
    project_ids: Sequence[int] | None = None
    expires_at: datetime | None = None

    def reads(self) -> Sequence[AnyStream]:
        return API_TOKEN.at(self.token_id), USER.at(self.user_id)

    def decide(self, token: ApiTokenCreated | None, user: UserAccount | None) -> Iterable[Event]:
        if token is not None:
            return
        if not _may_sign_in(user):
            raise Unauthenticated("The account is not active any more.")
        yield self.event(ApiTokenCreated, scopes=list(self.scopes))


@dataclass(frozen=True)
class RevokeApiToken(Command, of=API_TOKEN):
    token_id: int
    user_id: int

    def decide(self, token: ApiTokenCreated | None) -> Iterable[Event]:
        # Another user's token gets the same answer as an unknown one.
        if token is None or token.user_id != self.user_id:
            raise NotFound(f"You have no API token {self.token_id}.")
        yield self.event(ApiTokenRevoked)


def _may_sign_in(user: UserAccount | None) -> TypeGuard[UserAccount]:
    return user is not None and user.active and not user.deleted
