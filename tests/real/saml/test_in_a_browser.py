"""A user signs in at samlp in Chromium: redirects, the form that submits itself, and the cookie are the browser's."""

from collections.abc import Iterator
from pathlib import Path
from urllib.parse import urlsplit

import pytest
import requests

from tests.support.server import Server

from .browser import TIMEOUT_S, Browser, open_browser
from .test_sign_in import fields_of

pytestmark = [pytest.mark.real("node"), pytest.mark.real("chromedriver")]
PAGE = "/api/v3/healthz"


@pytest.fixture
def browser(tmp_path: Path) -> Iterator[Browser]:
    with open_browser(tmp_path / "profile") as browser:
        yield browser


def test_chromium_signs_in(server: Server, idp: str, browser: Browser) -> None:
    # Another host than the server's, so that the browser takes the two for different sites.
    idp = idp.replace("127.0.0.1", "localhost")
    metadata = requests.get(f"{idp}/metadata", timeout=TIMEOUT_S).text
    provider = server.admin.create("/identity-providers", name="Chromium", metadata=metadata)
    assert urlsplit(provider["sso_url"]).hostname == "localhost"
    login = f"{server.url}/api/v3/sso/login/{provider['id']}?return_to={PAGE}"
    acs, exchange, somewhere = (f"{server.url}{path}" for path in ("/api/v3/sso/acs", "/api/v3/sso/session", PAGE))

    def sign_in() -> str:
        browser.open(login)
        browser.read_until(f"{somewhere}#code=")
        assert browser.run("arguments[0](document.cookie)") == "", "no script reads the cookie"
        code = browser.url.partition("#code=")[2]
        browser.open(f"{server.url}/set-password")  # a page of the server that may send requests to it
        return code

    code = sign_in()
    status, opened = browser.post(exchange, {"code": code})
    assert status == 200, opened
    assert server.client().authorize(opened["token"]).fetch("/me")["email"] == "ada@example.com"
    assert browser.post(exchange, {"code": code})[0] == 401, "only once"
    code = sign_in()
    browser.forget_cookies(exchange)
    browser.open(f"{server.url}/set-password")
    assert browser.post(exchange, {"code": code})[0] == 401, "only in the browser that asked"

    # A page elsewhere signs the browser in as somebody else.
    page = requests.get(login, timeout=TIMEOUT_S).text
    browser.open(f"{idp}/")
    browser.submit(acs, fields_of(page))
    assert "did not ask for this sign-in" in browser.read_until(acs)

    server.admin.put(f"/api/v3/identity-providers/{provider['id']}", json={"sso_url": f"{idp}/tampered"})
    browser.open(login)
    assert "The SAML response is refused" in browser.read_until(acs)
