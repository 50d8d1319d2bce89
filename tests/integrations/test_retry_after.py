"""How long an answer asks to wait, as RFC 9110 writes it."""

import pytest

from integrations.addresses import parse_networks
from integrations.outgoing import HttpOutgoing
from tests.integrations.receiving import receiving

DATE = {"Date": "Wed, 20 May 2026 10:00:00 GMT"}


@pytest.mark.parametrize(
    ("headers", "seconds"),
    [
        ({}, 0),
        ({"Retry-After": "120"}, 120),
        ({"Retry-After": "9" * 5_000}, 999_999_999),
        ({"Retry-After": "Wed, 20 May 2026 10:02:00 GMT", **DATE}, 120),
        ({"Retry-After": "Wednesday, 20-May-26 10:02:00 GMT", **DATE}, 120),
        ({"Retry-After": "Wed, 20 May 2026 09:59:00 GMT", **DATE}, 0),
        ({"Retry-After": "Wed, 20 May 2026 10:02:00", **DATE}, 0),
        ({"Retry-After": "Wed, 20 May 2026 10:02:00 GMT", "Date": "soon"}, 0),
        ({"Retry-After": f"Wed, 20 May {9**20} 10:02:00 GMT", **DATE}, 0),
        ({"Retry-After": "-5", **DATE}, 0),
        ({"Retry-After": "1.5", **DATE}, 0),
        ({"Retry-After": "later", **DATE}, 0),
        ({"Retry-After": "٣", **DATE}, 0),
    ],
)
async def test_how_long_an_answer_asks_to_wait(headers: dict[str, str], seconds: int) -> None:
    async with receiving() as receiver, HttpOutgoing(parse_networks("127.0.0.0/8")) as outgoing:
        receiver.answers.append((503, headers, b""))
        assert (await outgoing.post(receiver.url, b"", {})).retry_after_s == seconds
