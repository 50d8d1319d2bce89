"""Reserves tokens for calls of language models, and later replaces each reservation by the tokens that the call has
used. So the calls of a month never use more tokens than the month's quota.
"""

import asyncio
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass, replace
from datetime import datetime
from functools import reduce

from commands.handler import Command, CommandContext, Handler
from domain.core.errors import Conflict, TooManyRequests
from domain.core.events import AnyStream, Event, LoadedState, readable
from domain.token_quota import (
    TOKEN_USE,
    TokensReleased,
    TokensReserved,
    TokensSettled,
    TokenUse,
    end_of,
    month_of,
)
from store.log.append import VersionConflict
from store.log.event_log import EventLog

MAX_TRIES = 100
"""Number of tries of a command while other processes reserve and settle tokens at the same time."""
PAGE_EVENTS = 4_000
"""Number of events of a month that are read at once."""


class QuotaUsedUp(TooManyRequests):
    """The tokens that are left of the month's quota are too few for a call."""


@dataclass(frozen=True)
class ReserveTokens(Command):
    """Reserves tokens for a call, and releases the reservations of the month that have expired. Raises QuotaUsedUp if
    the used and reserved tokens of the month would be more than `limit`.
    """

    reservation_id: str
    model: str
    tokens: int
    expires_at: datetime
    now: datetime
    limit: int
    loaded: LoadedState[TokenUse] | None = None
    """State of the month, if the caller has loaded it."""

    def reads(self) -> Sequence[AnyStream]:
        return (self.loaded or TOKEN_USE.at(month_of(self.now)),)

    def decide(self, use: TokenUse) -> Iterable[Event]:
        if self.reservation_id in use.reservations:
            return
        month, taken = month_of(self.now), use.count(self.now)
        if taken + self.tokens > self.limit:
            raise QuotaUsedUp(
                f"The quota of the month has {max(0, self.limit - taken):,} of {self.limit:,} tokens left, and this"
                f" question needs up to {self.tokens:,}.",
                max(1, int((end_of(month) - self.now).total_seconds())),
            )
        for reservation_id, reservation in use.reservations.items():
            if reservation.expires_at <= self.now and not reservation.is_released:
                yield TokensReleased(month=month, reservation_id=reservation_id)
        yield self.event(TokensReserved, month=month)


@dataclass(frozen=True)
class SettleTokens(Command):
    """Replaces a reservation by the tokens that its call has used. Does nothing if this was done before."""

    month: str
    reservation_id: str
    tokens: int
    is_estimate: bool = False
    loaded: LoadedState[TokenUse] | None = None
    """State of the month, if the caller has loaded it."""

    def reads(self) -> Sequence[AnyStream]:
        return (self.loaded or TOKEN_USE.at(self.month),)

    def decide(self, use: TokenUse) -> Iterable[Event]:
        if self.reservation_id in use.reservations:
            yield self.event(TokensSettled)


class TokenMeter:
    """Counts the tokens of each month. Several processes may each have a meter. A meter remembers the state of the
    month that it was last asked for, and reads only newer events: a month may have hundreds of thousands.
    """

    def __init__(self, log: EventLog, handler: Handler, clock: Callable[[], datetime]) -> None:
        self._log = log
        self._handler = handler
        self._clock = clock
        self._lock = asyncio.Lock()
        self._last = LoadedState("", 0, TokenUse())

    async def count(self) -> tuple[int, datetime]:
        """Returns the number of tokens that are used or reserved in the current month, and the end of the month."""
        now = self._clock()
        async with self._lock:
            loaded = await self._load(month_of(now))
        return loaded.state.count(now), end_of(month_of(now))

    async def reserve(
        self, reservation_id: str, model: str, tokens: int, expires_at: datetime, limit: int, caller: CommandContext
    ) -> str:
        """Reserves tokens in the current month, and returns the month. Raises QuotaUsedUp if the month would then have
        more than `limit` used and reserved tokens.
        """
        command = ReserveTokens(reservation_id, model, tokens, expires_at, self._clock(), limit)
        month = month_of(command.now)
        await self._execute(month, command, caller)
        return month

    async def record_use(
        self, month: str, reservation_id: str, tokens: int, is_estimate: bool, caller: CommandContext
    ) -> None:
        """Replaces a reservation of a month by the tokens that were used."""
        await self._execute(month, SettleTokens(month, reservation_id, tokens, is_estimate), caller)

    async def _execute(self, month: str, command: ReserveTokens | SettleTokens, caller: CommandContext) -> None:
        for _ in range(MAX_TRIES):
            # Commands of this process run one after the other, so that only other processes cause conflicts.
            async with self._lock:
                loaded = await self._load(month)
                try:
                    await self._handler.execute(replace(command, loaded=loaded), caller)
                    return
                except VersionConflict:
                    continue
        raise Conflict("Other processes keep reserving tokens at the same time; try again.")

    async def _load(self, month: str) -> LoadedState[TokenUse]:
        name = TOKEN_USE.at(month).name
        loaded = self._last if self._last.stream == name else LoadedState(name, 0, TokenUse())
        while events := await self._log.read_stream(name, loaded.version, PAGE_EVENTS):
            state = reduce(TOKEN_USE.evolve, (one.event for one in readable(events)), loaded.state)
            loaded = LoadedState(name, events[-1].version, state, events[-1].position)
            if len(events) < PAGE_EVENTS:
                break
        self._last = loaded
        return loaded
