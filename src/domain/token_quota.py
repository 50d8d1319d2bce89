"""The quota of tokens: how many tokens of language models the server has used in a month.

Each month has a stream. Before a call of a model, the largest number of tokens that the call can use is reserved. After
the call, the reservation is settled: the number of tokens that the call has used replaces it. The reservation of a call
whose worker died is released once it expires.
"""

from collections.abc import Mapping
from datetime import UTC, datetime
from typing import ClassVar

import msgspec

from domain.core.events import Category, Event

PREFIX = "tokens"


class TokenEvent(Event, frozen=True):
    """Base of the events about the tokens of one month."""

    month: str
    """Month in which the tokens were reserved, in UTC, such as `2026-05`."""
    reservation_id: str

    @property
    def stream(self) -> str:
        return f"{PREFIX}-{self.month}"


class TokensReserved(TokenEvent, frozen=True):
    """Tokens were reserved for one call of a model."""

    name: ClassVar[str] = "tokens.reserved"
    model: str
    tokens: int
    """Largest number of tokens that the call can use: tokens of the prompt, and of the longest possible answer."""
    expires_at: datetime
    """Time by which the call has certainly ended, so that the reservation expires."""


class TokensSettled(TokenEvent, frozen=True):
    """A call ended. Its reservation was replaced by the tokens that it has used."""

    name: ClassVar[str] = "tokens.settled"
    tokens: int
    is_estimate: bool = False
    """True if the model's server did not say how many tokens the call used."""


class TokensReleased(TokenEvent, frozen=True):
    """A reservation expired before its call was settled, probably because the worker died."""

    name: ClassVar[str] = "tokens.released"


class Reservation(msgspec.Struct, frozen=True):
    tokens: int
    expires_at: datetime
    is_released: bool = False
    """Whether the reservation has expired and no longer counts. A worker that was only slow can still settle it."""


class TokenUse(msgspec.Struct, frozen=True):
    """The tokens of one month."""

    settled: int = 0
    """Number of tokens that ended calls have used."""
    reservations: Mapping[str, Reservation] = {}
    """Reservation id -> reservation that no call has settled."""

    def count(self, now: datetime) -> int:
        """Returns the number of tokens that are used or reserved at the time `now`."""
        return self.settled + sum(
            one.tokens for one in self.reservations.values() if not one.is_released and one.expires_at > now
        )


def evolve(state: TokenUse, event: Event) -> TokenUse:
    match event:
        case TokensReserved():
            return _with(state, event.reservation_id, Reservation(event.tokens, event.expires_at))
        case TokensSettled() if event.reservation_id in state.reservations:
            left = {key: one for key, one in state.reservations.items() if key != event.reservation_id}
            return TokenUse(state.settled + event.tokens, left)
        case TokensReleased() if event.reservation_id in state.reservations:
            released = msgspec.structs.replace(state.reservations[event.reservation_id], is_released=True)
            return _with(state, event.reservation_id, released)
        case _:
            return state


def _with(state: TokenUse, reservation_id: str, reservation: Reservation) -> TokenUse:
    return TokenUse(state.settled, {**state.reservations, reservation_id: reservation})


def month_of(at: datetime) -> str:
    """Returns the month of a time, in UTC, as events name it."""
    return at.astimezone(UTC).strftime("%Y-%m")


def end_of(month: str) -> datetime:
    """Returns the first moment after a month."""
    year, number = map(int, month.split("-"))
    return datetime(year + number // 12, number % 12 + 1, 1, tzinfo=UTC)


TOKEN_USE = Category[TokenUse](PREFIX, TokenUse(), evolve)
EVENTS = (TokensReserved, TokensSettled, TokensReleased)
