"""A user signs in at samlp, an identity provider that others wrote, from its metadata to the session.

Needs Node.js and the packages that are locked beside this file.
"""

import html
import re
from urllib.parse import urljoin

import pytest
import requests

from tests.support.server import Server

pytestmark = pytest.mark.real("node")
TIMEOUT_S = 20


def fields_of(page: str) -> dict[str, str]:
    """The hidden fields of the form that the provider's page submits by itself."""
    found = re.findall(r'<input type="hidden"\s+name="(\w+)"\s+value="([^"]*)"', page)
    return {name: html.unescape(value) for name, value in found}


def test_a_browser_signs_in(server: Server, idp: str) -> None:
    metadata = requests.get(f"{idp}/metadata", timeout=TIMEOUT_S).text
    provider = server.admin.create("/identity-providers", name="samlp", metadata=metadata)
    assert (provider["entity_id"], urljoin(provider["sso_url"], "/")) == ("urn:samlp", f"{idp}/")

    browser = requests.Session()
    login = f"{server.url}/api/v3/sso/login/{provider['id']}?return_to=/projects/1"
    page = browser.get(login, timeout=TIMEOUT_S)
    assert page.url.startswith(f"{idp}/samlp?SAMLRequest=")
    form, acs = fields_of(page.text), f"{server.url}/api/v3/sso/acs"
    assert form["RelayState"] == "/projects/1"

    refused = requests.post(acs, data=form, allow_redirects=False, timeout=TIMEOUT_S)
    assert (refused.status_code, "did not ask" in refused.json()["detail"]) == (401, True), refused.text
    back = browser.post(acs, data=form, allow_redirects=False, timeout=TIMEOUT_S)
    assert back.status_code == 303, back.text
    address, _, code = back.headers["Location"].partition("#code=")
    assert address == f"{server.url}/projects/1"
    opened = browser.post(f"{server.url}/api/v3/sso/session", json={"code": code}, timeout=TIMEOUT_S).json()
    me = server.client().authorize(opened["token"]).fetch("/me")
    assert (me["email"], me["role"]) == ("ada@example.com", "viewer")
    user = server.admin.fetch(f"/users/{me['id']}")
    assert (user["first_name"], user["last_name"]) == ("Ada", "Lovelace")
    (link,) = server.admin.fetch(f"/identity-providers/{provider['id']}/identities")
    assert (link["id"], link["name_id"]) == (me["id"], "u-4711")

    assert browser.post(acs, data=form, allow_redirects=False, timeout=TIMEOUT_S).status_code == 401, "only once"
