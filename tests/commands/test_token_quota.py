"""Tokens of a month are reserved and settled within its quota."""

from datetime import UTC, datetime, timedelta

import hypothesis
import pytest
from hypothesis import strategies as st

from commands.token_quota import QuotaUsedUp, ReserveTokens, SettleTokens
from domain.core.events import Event
from domain.token_quota import (
    EVENTS,
    TOKEN_USE,
    TokensReleased,
    TokensReserved,
    TokensSettled,
    TokenUse,
    end_of,
    month_of,
)
from tests.support.spec import folds, given, is_decided_once
from tests.support.strategies import commands, histories

NOW = datetime(2026, 5, 31, 23, 59, tzinfo=UTC)
LATER = NOW + timedelta(seconds=90)


def reserve(reservation_id: str, tokens: int, now: datetime = NOW, limit: int = 1_000) -> ReserveTokens:
    return ReserveTokens(reservation_id, "m", tokens, now + timedelta(seconds=60), now, limit)


def reserved(reservation_id: str, tokens: int, now: datetime = NOW) -> TokensReserved:
    expires_at = now + timedelta(seconds=60)
    return TokensReserved(
        month="2026-05", reservation_id=reservation_id, model="m", tokens=tokens, expires_at=expires_at
    )


def settled(reservation_id: str, tokens: int) -> TokensSettled:
    return TokensSettled(month="2026-05", reservation_id=reservation_id, tokens=tokens)


def test_reservations_stay_within_the_limit() -> None:
    given().when(reserve("a", 1_000)).then(reserved("a", 1_000))
    given(reserved("a", 600)).when(reserve("b", 400)).then(reserved("b", 400))
    with pytest.raises(QuotaUsedUp, match="has 400 of 1,000 tokens left, and this question needs up to 401") as refused:
        given(reserved("a", 600)).when(reserve("b", 401))
    assert refused.value.retry_after_s == 60, "until the month ends"
    given(reserved("a", 600), settled("a", 50)).when(reserve("b", 950)).then(reserved("b", 950))


def test_calls_are_settled_once() -> None:
    given(reserved("a", 600)).when(SettleTokens("2026-05", "a", 50)).then(settled("a", 50))
    given(reserved("a", 600), settled("a", 50)).when(SettleTokens("2026-05", "a", 50)).then_nothing()
    given().when(SettleTokens("2026-05", "a", 50)).then_nothing()


def test_the_reservation_of_a_dead_worker_is_released() -> None:
    history: tuple[Event, ...] = (reserved("dead", 900, NOW - timedelta(seconds=60)),)
    released = TokensReleased(month="2026-05", reservation_id="dead")
    given(*history).when(reserve("b", 500)).then(released, reserved("b", 500))
    given(*history, released, reserved("b", 500)).when(reserve("c", 500)).then(reserved("c", 500))
    given(*history, released).when(SettleTokens("2026-05", "dead", 700)).then(settled("dead", 700))
    late: TokenUse = TOKEN_USE.at("2026-05").fold([*history, released, settled("dead", 700)])
    assert (late.count(NOW), dict(late.reservations)) == (700, {}), "the worker was only slow"


def test_each_month_begins_at_zero() -> None:
    assert given(reserved("a", 1_000)).when(reserve("b", 1_000, LATER))[0].stream == "tokens-2026-06"
    assert end_of("2026-12") == datetime(2027, 1, 1, tzinfo=UTC)
    assert month_of(end_of("2026-01")) == "2026-02"


@hypothesis.given(histories(*EVENTS))
def test_any_history_folds(history: list[Event]) -> None:
    folds(TOKEN_USE, history)


@hypothesis.given(
    st.one_of(
        commands(ReserveTokens, now=st.just(NOW), loaded=st.none(), limit=st.sampled_from([2, 100])),
        commands(SettleTokens, month=st.just("2026-05"), loaded=st.none()),
    ),
    st.lists(st.sampled_from([reserved("a", 1), reserved("b", 2), settled("a", 1), settled("b", 2)]), max_size=6),
)
def test_commands_are_decided_once(command: ReserveTokens | SettleTokens, history: list[Event]) -> None:
    is_decided_once(command, history)
