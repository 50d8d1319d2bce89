"""Commands on sessions and API tokens: open, create, revoke."""

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from datetime import datetime

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
from domain.core.errors import NotFound
from domain.core.events import Event


@dataclass(frozen=True)
class OpenSession(Command, of=SESSION):
    """Opens a login session for a user who has been authenticated."""

    session_id: str
    user_id: int
    expires_at: datetime

    def decide(self, session: Validity) -> Iterable[Event]:
        if session == "unknown":
            yield self.event(SessionOpened)


@dataclass(frozen=True)
class RevokeSession(Command, of=SESSION):
    session_id: str
    user_id: int

    def decide(self, session: Validity) -> Iterable[Event]:
        if session == "valid":
            yield self.event(SessionRevoked)


@dataclass(frozen=True)
class CreateApiToken(Command, of=API_TOKEN):
    token_id: int
    user_id: int
    label: str
    token_hash: bytes
    scopes: Sequence[Scope] = ()
    project_ids: Sequence[int] | None = None
    expires_at: datetime | None = None

    def decide(self, token: ApiTokenCreated | None) -> Iterable[Event]:
        if token is None:
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
