"""Sessions and API tokens: the credentials of a request."""

from datetime import datetime
from typing import ClassVar, Literal

from domain.core.data_keys import user_key
from domain.core.events import Category, Event

Scope = Literal["read", "build", "report", "admin"]
"""A permission of an API token. `read`: to read; `build`: to start and stop builds; `report`: to send results and
artifacts; `admin`: all that the token's user may do.
"""


class SessionEvent(Event, frozen=True):
    session_id: str
    user_id: int

    @property
    def stream(self) -> str:
        return f"session-{self.session_id}"


class SessionOpened(SessionEvent, frozen=True):
    name: ClassVar[str] = "session.opened"
    expires_at: datetime


class SessionRevoked(SessionEvent, frozen=True):
    name: ClassVar[str] = "session.revoked"


class ApiTokenEvent(Event, frozen=True):
    token_id: int
    user_id: int

    @property
    def stream(self) -> str:
        return f"api-token-{self.token_id}"


class ApiTokenCreated(ApiTokenEvent, frozen=True):
    name: ClassVar[str] = "api_token.created"
    sealed: ClassVar[tuple[str, ...]] = ("label", "token_hash")
    label: str = ""
    token_hash: bytes = b""
    scopes: list[Scope] = []
    """Permissions of the token; empty if the token may do all that its user may do."""
    project_ids: list[int] | None = None
    """Projects that the token may access; None for all projects of its user."""
    expires_at: datetime | None = None

    @property
    def data_key(self) -> str | None:
        return user_key(self.user_id)


class ApiTokenRevoked(ApiTokenEvent, frozen=True):
    name: ClassVar[str] = "api_token.revoked"


Validity = Literal["unknown", "valid", "revoked"]


def evolve_session(state: Validity, event: Event) -> Validity:
    match event:
        case SessionOpened():
            return "valid"
        case SessionRevoked():
            return "revoked"
        case _:
            return state


def evolve_token(state: ApiTokenCreated | None, event: Event) -> ApiTokenCreated | None:
    match event:
        case ApiTokenCreated():
            return event
        case ApiTokenRevoked():
            return None
        case _:
            return state


SESSION = Category[Validity]("session", "unknown", evolve_session)
API_TOKEN = Category[ApiTokenCreated | None]("api-token", None, evolve_token)
EVENTS = (SessionOpened, SessionRevoked, ApiTokenCreated, ApiTokenRevoked)
