"""Which passwords are refused, and that keeping the list of them costs little."""

import sys

import pytest

from store.crypto.passwords import find_weakness


@pytest.mark.parametrize("password", ["password", "Password1", "p@ssw0rd", "testhide123", "qwertyuiop", "liverpool1"])
def test_what_others_use_is_refused(password: str) -> None:
    assert find_weakness(password) == "one of the commonest passwords"
    assert not any(name.startswith("zxcvbn") for name in sys.modules)


@pytest.mark.parametrize("password", ["aaaa bbbb", "correct horse battery", "ÄÖÜäöüßé", "x" * 1_000])
def test_a_password_needs_length_alone(password: str) -> None:
    assert find_weakness(password) is None
    assert find_weakness(password[:7]) == "shorter than 8 characters"
