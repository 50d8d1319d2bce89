"""The operator's name in the audit trail."""

import os
import pwd

import pytest

from testhide.operator_name import find_operator


def test_the_environment_does_not_say_who_the_operator_is(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("LOGNAME", "USER", "LNAME", "USERNAME"):
        monkeypatch.setenv(name, "alice")
    assert find_operator() == pwd.getpwuid(os.getuid()).pw_name


def test_an_account_without_a_name_is_its_number(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(os, "getuid", lambda: 4_000_000_000)
    assert find_operator() == "uid 4000000000"
