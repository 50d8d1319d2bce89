"""Networks that only URLs of admins may lead to, as `testhide up` opens those of this machine."""

from collections.abc import Sequence

import pytest

from integrations.ports import Refused
from tests.integrations.receiving import receiving
from tests.integrations.test_outgoing import LOOPBACK, is_refused, outgoing

pytestmark = pytest.mark.anyio


async def test_networks_for_admins_are_opened_by_no_name_and_by_nobody_else() -> None:
    async def resolve(name: str) -> Sequence[str]:
        return ["127.0.0.1"]

    async with receiving() as receiver, outgoing(resolve, for_admins=LOOPBACK) as client:
        await client.check(receiver.url, is_admin=True)
        assert (await client.post(receiver.url, b"{}", {})).status == 200
        with pytest.raises(Refused, match="https://"):
            await client.check(receiver.url, is_admin=False)
        with pytest.raises(Refused, match="is this machine"):
            await client.check("https://localhost/", is_admin=False)
        await is_refused(client, "https://hooks.example.com/", "is this machine")
        await is_refused(client, "http://hooks.example.com/", "https://")
