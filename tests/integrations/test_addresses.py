"""What a name server may answer."""

import pytest

from integrations.addresses import must_be_callable
from integrations.ports import Refused


@pytest.mark.parametrize(
    ("address", "why"),
    [
        ("fe80::1%eth0", "link-local"),
        ("2606:4700::1%eth0", "link-local"),
        ("127.0.0.1\0", "no address"),
        ("127.0.0.1 ", "no address"),
        ("localhost", "no address"),
        ("0x7f000001", "no address"),
        ("2130706433", "no address"),
        ("127.1", "no address"),
        ("١٢٧.0.0.1", "no address"),
        ("", "no address"),
    ],
)
def test_odd_answers_are_refused(address: str, why: str) -> None:
    with pytest.raises(Refused, match=why):
        must_be_callable(["93.184.216.34", address], (), is_https=True)
