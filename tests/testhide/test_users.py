"""`testhide users set-password` on a running server."""

import io
from pathlib import Path

import httpx
import pytest

from testhide.cli import main
from testhide.settings import save_settings
from tests.support.server import Server


def test_a_password_from_standard_input_replaces_the_old_one(
    server: Server, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    save_settings(server.settings, tmp_path / "settings.json")
    monkeypatch.setenv("TESTHIDE_SETTINGS", str(tmp_path / "settings.json"))
    user = server.make_user("developer")
    email, old = user.get("/api/v3/me").json()["email"], "a password of theirs"

    def set_password(password: str, whose: str = email) -> int:
        monkeypatch.setattr("sys.stdin", io.StringIO(password + "\n"))
        code = main.main(["users", "set-password", whose])
        server.wait_until_projected()
        return code

    def sign_in(password: str) -> int:
        body = {"username": email, "password": password}
        return httpx.post(f"{server.url}/api/v3/authenticate", json=body).status_code

    assert set_password("a new good one") == 0
    assert (sign_in("a new good one"), sign_in(old)) == (200, 401)
    assert set_password("hunter2") == 2
    assert set_password("a new good one", "nobody@example.com") == 1
    assert "no user with the address nobody@example.com" in capsys.readouterr().err
    assert set_password(old) == 0
    assert sign_in(old) == 200
