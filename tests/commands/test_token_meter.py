"""Several processes count the tokens of a month in one log."""

import asyncio
from collections import Counter
from datetime import UTC, datetime, timedelta

from commands.handler import CommandContext, Handler
from commands.token_quota import QuotaUsedUp, TokenMeter
from domain.token_quota import TokensReserved
from testhide.processes import Core, core
from testhide.settings import Settings

NOW = datetime(2026, 5, 20, 10, tzinfo=UTC)
CALLER = CommandContext("system:tests")
LIMIT = 10_000


def meter_of(parts: Core) -> TokenMeter:
    return TokenMeter(parts.log, Handler(parts.log, lambda: NOW), lambda: NOW)


async def test_parallel_calls_in_several_processes_stay_within_the_quota(parts: Core, database: str) -> None:
    same = Settings(database_url=database, secret_key=b"s" * 32, data_dir="", unsafe=True)
    async with core(same) as second, core(same) as third:
        meters = [meter_of(one) for one in (parts, second, third)]

        async def call(number: int) -> str:
            meter, name = meters[number % len(meters)], f"call-{number}"
            try:
                month = await meter.reserve(name, "m", 300, NOW + timedelta(minutes=1), LIMIT, CALLER)
            except QuotaUsedUp:
                return "refused"
            await meter.record_use(month, name, 300, False, CALLER)
            return "made"

        outcomes = Counter(await asyncio.gather(*(call(number) for number in range(100))))
        assert outcomes == {"made": 33, "refused": 67}
        assert {await meter.count() for meter in meters} == {(9_900, datetime(2026, 6, 1, tzinfo=UTC))}
        events = await parts.log.read_stream("tokens-2026-05", 0, 1_000)
        assert sum(isinstance(one.event, TokensReserved) for one in events) == 33


async def test_an_expired_reservation_does_not_count(parts: Core) -> None:
    meter = meter_of(parts)
    await meter.reserve("dead", "m", LIMIT, NOW - timedelta(seconds=1), LIMIT, CALLER)
    assert (await meter.count())[0] == 0
    await meter.reserve("next", "m", LIMIT, NOW + timedelta(minutes=1), LIMIT, CALLER)
    assert (await meter_of(parts).count())[0] == LIMIT
