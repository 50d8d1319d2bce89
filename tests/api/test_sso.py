"""Signing in by SAML, with an identity provider of ours that signs what the tests ask for."""

import base64
import random
import zlib
from collections.abc import Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, replace
from datetime import timedelta
from pathlib import Path
from typing import Any
from urllib.parse import parse_qs, urlsplit

import psycopg
import pytest
import requests
from lxml import etree
from psycopg import sql
from psycopg.types.json import Jsonb

from projections.identity_providers import IdentityProviderRow
from tests.support.http import Answer, Client
from tests.support.in_process_server import serve_in_process
from tests.support.saml_idp import ENTITY_ID, SSO_URL, Response, SigningKey, encode, signed, signing_key
from tests.support.server import ADMIN, Server, running_server

GROUPS: dict[str, Any] = {"role_attribute": "groups", "roles": {"ci-admins": "admin", "ci-developers": "developer"}}


@dataclass(frozen=True)
class Idp:
    """An identity provider that the server knows, under an entity id of its own."""

    server: Server
    id: int
    entity_id: str

    def response(self, name_id: str, path: str = "/acs", **more: Any) -> Response:
        url = f"{self.server.url}/api/v3/sso"
        audience = f"{url}/metadata"
        return Response(f"{url}{path}", audience, name_id=name_id, issuer=self.entity_id, **more)

    def post(self, response: Response | str) -> Answer:
        text = signed(response) if isinstance(response, Response) else response
        return self.server.client().post("/api/v3/sso", json={"saml_response": text})

    def sign_in(self, name_id: str, attributes: Mapping[str, list[str]] | None = None) -> Client:
        """The client of the person whom the provider asserts."""
        token = self.post(self.response(name_id, attributes=attributes or {})).then(200)["token"]
        return self.server.client().authorize(token)

    def change(self, **changes: Any) -> None:
        self.server.admin.put(f"/api/v3/identity-providers/{self.id}", json=changes).then(200)


def body_of(entity_id: str, **more: Any) -> dict[str, Any]:
    certificate = signing_key("idp").certificate.decode()
    body = {"name": "Company", "entity_id": entity_id, "sso_url": SSO_URL, "certificates": [certificate]}
    return body | more


def given_idp(server: Server, **more: Any) -> Idp:
    entity_id = f"{ENTITY_ID}/{random.randrange(2**40)}"
    created = server.admin.create("/identity-providers", **body_of(entity_id, **more))
    return Idp(server, created["id"], entity_id)


@pytest.fixture(scope="module")
def idp(server: Server) -> Idp:
    return given_idp(server)


def new_email() -> str:
    return f"p{random.randrange(2**40)}@example.com"


def test_the_first_sign_in_makes_a_user(idp: Idp) -> None:
    email = new_email()
    attributes = {"mail": [email], "givenName": ["Ada"], "sn": ["Lovelace"]}
    response = idp.response(f"name of {email}", attributes=attributes)
    answer = idp.post(response).then(200)
    assert answer.keys() == {"token", "user_id", "expires_at"}
    me = idp.server.client().authorize(answer["token"]).fetch("/me")
    assert (me["id"], me["email"], me["role"]) == (answer["user_id"], email, "viewer")
    user = idp.server.admin.fetch(f"/users/{me['id']}")
    assert (user["first_name"], user["last_name"]) == ("Ada", "Lovelace")
    assert user["last_login"]
    # The name counts, not the address.
    assert idp.sign_in(f"name of {email}", {"mail": [new_email()]}).fetch("/me")["id"] == me["id"]
    assert idp.sign_in(f"NAME of {email}", {"mail": [new_email()]}).fetch("/me")["id"] != me["id"]


def test_an_assertion_works_once(idp: Idp, tmp_path: Path) -> None:
    response = signed(idp.response(new_email()))
    idp.post(response).then(200)
    again = idp.post(response)
    assert (again.status_code, "used already" in again.json()["detail"]) == (401, True)
    at_once = signed(idp.response(new_email()))
    with ThreadPoolExecutor(8) as threads:
        statuses = list(threads.map(lambda _: idp.post(at_once).status_code, range(8)))
    assert sorted(statuses) == [200] + [401] * 7
    # Also at another process.
    with running_server(idp.server.engines, tmp_path, "serve", base_url=idp.server.url) as second:
        refused = second.client().post("/api/v3/sso", json={"saml_response": at_once})
    assert (refused.status_code, "used already" in refused.json()["detail"]) == (401, True)


def test_what_is_refused_says_why(idp: Idp) -> None:
    good = idp.response(new_email())
    for response, why in (
        (replace(good, age=timedelta(minutes=9)), "expired"),
        (replace(good, audience="https://other.example.com"), "audience"),
        (replace(good, issuer="https://other.example.com"), "no active identity provider"),
        (replace(good, in_response_to="_made-up"), "did not make"),
        (encode(b"<garbage/>"), "one assertion"),
        ("x", "base64"),
    ):
        refused = idp.post(response)
        assert refused.status_code == 401
        assert why in refused.json()["detail"]
    assert idp.post("").status_code == 422
    assert idp.post("A" * 300_000).status_code == 422
    assert idp.post("A" * 3_000_000).status_code == 413


def test_an_unsolicited_response_where_that_is_off(server: Server) -> None:
    idp = given_idp(server, allow_idp_initiated=False)
    refused = idp.post(idp.response(new_email()))
    assert (refused.status_code, "did not ask" in refused.json()["detail"]) == (401, True)
    idp.change(active=False)
    assert idp.post(idp.response(new_email())).status_code == 401


def test_an_address_that_guesses(server: Server) -> None:
    """All ways of signing in count together."""
    headers = {"X-Forwarded-For": f"2001:db8:{random.randrange(2**16):x}:{random.randrange(2**16):x}::1"}

    def attempts() -> list[int]:
        return [
            requests.post(f"{server.url}/api/v3/{path}", json=body, data=form, headers=headers, timeout=10).status_code
            for path, body, form in (
                ("sso", {"saml_response": "AAAA"}, None),
                ("sso/session", {"code": "x"}, None),
                ("sso/acs", None, {"SAMLResponse": "AAAA"}),
            )
        ]

    assert attempts() == [401, 401, 401]
    with psycopg.connect(server.settings.database_url) as connection:
        counted = connection.execute(
            "UPDATE login_failures SET failures = 50 WHERE subject LIKE 'login-address-%' AND failures = 3"
        )
        assert counted.rowcount == 1
    assert attempts() == [429, 429, 429]


def test_accounts_that_exist_already(idp: Idp) -> None:
    admin, client = idp.server.admin, idp.server.client()
    for role, by_email in (("developer", 200), ("admin", 403)):
        email = new_email()
        user_id = admin.create("/users", email=email, role=role)["id"]
        idp.change(link_by_email=False)
        refused = idp.post(idp.response(email))
        assert (refused.status_code, "must link" in refused.json()["detail"]) == (403, True)
        idp.change(link_by_email=True)
        assert idp.post(idp.response(email)).status_code == by_email
        if by_email == 403:
            body = {"user_id": user_id, "name_id": email}
            admin.create(f"/identity-providers/{idp.id}/identities", **body)
            assert admin.post(f"/api/v3/identity-providers/{idp.id}/identities", json=body).status_code == 409
        assert client.authorize(idp.sign_in(email).token).fetch("/me")["id"] == user_id
    links = admin.fetch(f"/identity-providers/{idp.id}/identities")
    assert [link["name_id"] for link in links if link["id"] == user_id] == [email]
    admin.delete(f"/api/v3/identity-providers/{idp.id}/identities/{user_id}").then(204)
    assert idp.post(idp.response(email)).status_code == 403


def test_the_first_admin_is_nobody_elses(idp: Idp) -> None:
    idp.change(link_by_email=True)
    assert idp.post(idp.response(ADMIN[0])).status_code == 403


def test_roles_by_groups(server: Server) -> None:
    idp, name = given_idp(server, **GROUPS), new_email()
    expected = {"ci-admins": "admin", "ci-developers": "developer", "others": "viewer"}
    for group, role in expected.items():
        assert idp.sign_in(name, {"groups": ["others", group]}).fetch("/me")["role"] == role
    idp.change(default_role=None)
    assert idp.post(idp.response(new_email(), attributes={"groups": ["others"]})).status_code == 403
    assert idp.post(idp.response(name, attributes={"groups": ["others"]})).status_code == 403


def test_no_account_is_made(server: Server) -> None:
    idp = given_idp(server, create_users=False)
    assert idp.post(idp.response(new_email())).status_code == 403
    idp.change(create_users=True)
    nameless = idp.post(idp.response("no address"))
    assert (nameless.status_code, "email address" in nameless.json()["detail"]) == (403, True)
    idp.change(email_attribute="contact")
    assert idp.post(idp.response(new_email())).status_code == 403
    email = new_email()
    assert idp.sign_in("no address", {"contact": [email]}).fetch("/me")["email"] == email


def test_what_a_provider_may_do_is_decided_by_the_log(server: Server) -> None:
    """Whoever can change a row of the read model signs nobody in by it, and makes no admin."""
    idp = given_idp(server)
    key = signing_key("somebody else")
    changes = {"certificates": Jsonb([certificate_in(key)]), "default_role": "admin"}
    with psycopg.connect(server.settings.database_url, autocommit=True) as connection:
        for column, value in changes.items():
            statement = sql.SQL("UPDATE {} SET {} = %s WHERE id = %s").format(
                sql.Identifier(str(IdentityProviderRow.table)), sql.Identifier(column)
            )
            connection.execute(statement, (value, idp.id))
    assert idp.post(signed(idp.response(new_email()), key=key)).status_code == 401
    assert idp.sign_in(new_email()).fetch("/me")["role"] == "viewer"
    # Other tests compare this server's read models with the log.
    server.admin.delete(f"/api/v3/identity-providers/{idp.id}").then(204)


def certificate_in(key: SigningKey) -> str:
    """The key's certificate as the server stores it: DER as base64."""
    return "".join(key.certificate.decode().splitlines()[1:-1])


def test_users_who_may_not_sign_in_any_more(idp: Idp) -> None:
    name, admin = new_email(), idp.server.admin
    client = idp.sign_in(name)
    user_id = client.fetch("/me")["id"]
    admin.put(f"/api/v3/users/{user_id}", json={"active": False}).then(200)
    assert client.get("/api/v3/me").status_code == 401
    assert idp.post(idp.response(name)).status_code == 403
    admin.delete(f"/api/v3/users/{user_id}").then(204)
    assert idp.sign_in(name).fetch("/me")["id"] != user_id, "a new account"


# In a browser


@dataclass(frozen=True)
class Browser:
    """A browser's cookies, without following redirects."""

    session: requests.Session
    url: str

    def begin(self, idp: Idp, return_to: str = "/projects/1") -> str:
        """Goes to the identity provider and returns the id of the request."""
        url = f"{self.url}/api/v3/sso/login/{idp.id}"
        answer = self.session.get(url, params={"return_to": return_to}, allow_redirects=False, timeout=10)
        assert answer.status_code == 303
        query = parse_qs(urlsplit(answer.headers["Location"]).query)
        assert query["RelayState"] == [return_to]
        request = etree.fromstring(zlib.decompress(base64.b64decode(query["SAMLRequest"][0]), -15))
        assert request.get("AssertionConsumerServiceURL") == f"{self.url}/api/v3/sso/acs"
        return str(request.get("ID"))

    def come_back(self, response: Response | str, relay_state: str = "/projects/1") -> requests.Response:
        text = signed(response) if isinstance(response, Response) else response
        form = {"SAMLResponse": text, "RelayState": relay_state}
        return self.session.post(f"{self.url}/api/v3/sso/acs", data=form, allow_redirects=False, timeout=10)

    def exchange(self, code: str) -> requests.Response:
        return self.session.post(f"{self.url}/api/v3/sso/session", json={"code": code}, timeout=10)


@pytest.fixture
def browser(server: Server) -> Browser:
    return Browser(requests.Session(), server.url)


def test_a_browser_signs_in(idp: Idp, browser: Browser) -> None:
    (choice,) = [one for one in idp.server.client().fetch("/sso") if one["url"].endswith(f"/login/{idp.id}")]
    assert choice["name"] == "Company"
    request_id = browser.begin(idp)
    back = browser.come_back(idp.response(new_email(), in_response_to=request_id))
    assert back.status_code == 303
    page, _, code = back.headers["Location"].partition("#code=")
    assert page == f"{browser.url}/projects/1"
    assert Browser(requests.Session(), browser.url).exchange(code).status_code == 401, "only in this browser"
    opened = browser.exchange(code)
    assert opened.status_code == 200
    assert idp.server.client().authorize(opened.json()["token"]).fetch("/me")["role"] == "viewer"
    assert browser.exchange(code).status_code == 401, "only once"
    assert browser.exchange(f"{code}0").status_code == 401


def test_what_a_browser_did_not_ask_for(idp: Idp, browser: Browser) -> None:
    request_id = browser.begin(idp)
    other = Browser(requests.Session(), browser.url)
    mine = idp.response(new_email(), in_response_to=request_id)
    unasked = idp.response(new_email())
    elsewhere = given_idp(idp.server).response(new_email(), in_response_to=request_id)
    direct = idp.response(new_email(), path="", in_response_to=request_id)
    for where, response in (
        (other, mine),
        (browser, unasked),
        (browser, elsewhere),
        (browser, direct),
        (browser, replace(mine, in_response_to=f"{request_id}0")),
        (browser, encode(mine.unsigned())),
    ):
        assert where.come_back(response).status_code == 401
    assert browser.come_back(mine).status_code == 303
    replayed = browser.come_back(mine)
    assert replayed.status_code == 401
    assert browser.come_back(replace(mine, assertion_id="_another")).status_code == 401, "a request is answered once"


@pytest.mark.parametrize("path", ["//evil.test", "/\\evil.test", "https://evil.test", "", "/\t/evil.test", "/a\r\nb"])
def test_only_pages_of_this_server_are_returned_to(idp: Idp, browser: Browser, path: str) -> None:
    begun = browser.session.get(
        f"{browser.url}/api/v3/sso/login/{idp.id}", params={"return_to": path}, allow_redirects=False, timeout=10
    )
    assert begun.status_code == 422
    if path:
        assert browser.come_back(idp.response(new_email()), path).status_code == 422


def test_forms_that_are_none(browser: Browser) -> None:
    url = f"{browser.url}/api/v3/sso/acs"
    kind = {"Content-Type": "application/x-www-form-urlencoded"}
    for body in ("", "x", "SAMLResponse=", "SAMLResponse=a&SAMLResponse=b", "RelayState=/", "é"):
        assert browser.session.post(url, data=body.encode(), headers=kind, timeout=10).status_code == 422
    assert browser.session.post(url, json={}, timeout=10).status_code == 415


# Providers


def test_providers_are_managed(server: Server) -> None:
    idp = given_idp(server, **GROUPS)
    shown = server.admin.fetch(f"/identity-providers/{idp.id}")
    assert (shown["name"], shown["entity_id"], shown["roles"]) == ("Company", idp.entity_id, GROUPS["roles"])
    assert shown in server.admin.fetch("/identity-providers")
    body = body_of(idp.entity_id)
    assert server.admin.post("/api/v3/identity-providers", json=body).status_code == 409
    assert server.admin.put(f"/api/v3/identity-providers/{idp.id}", json=shown).then(200)["id"] == idp.id
    idp.change(certificates=[signing_key("newer").certificate.decode()])
    assert idp.post(idp.response(new_email())).status_code == 401
    idp.post(signed(idp.response(new_email()), key=signing_key("newer"))).then(200)
    server.admin.delete(f"/api/v3/identity-providers/{idp.id}").then(204)
    assert server.admin.get(f"/api/v3/identity-providers/{idp.id}").status_code == 404
    assert idp.post(idp.response(new_email())).status_code == 401
    assert server.admin.create("/identity-providers", **body)["id"] > idp.id
    summaries = [entry["summary"] for entry in server.admin.fetch(f"/audit/streams/identity-provider-{idp.id}")]
    assert len(summaries) == 3


def test_bad_providers_are_refused(server: Server) -> None:
    weak = signing_key("weak", 1024).certificate.decode()
    body = body_of(new_email())
    changes: tuple[dict[str, Any], ...] = (
        {"certificates": ["no certificate"]},
        {"certificates": [weak]},
        {"certificates": []},
        {"sso_url": "javascript:alert(1)"},
        {"metadata": "<a/>"},
    )
    for change in changes:
        assert server.admin.post("/api/v3/identity-providers", json=body | change).status_code == 422
    lacking = {"name": "x", "entity_id": "y"}
    assert server.admin.post("/api/v3/identity-providers", json=lacking).status_code == 422
    developer = server.make_user("developer")
    assert developer.get("/api/v3/identity-providers").status_code == 403
    assert developer.post("/api/v3/identity-providers", json=body).status_code == 403


def test_the_metadata_of_this_server(server: Server) -> None:
    answer = server.client().get("/api/v3/sso/metadata")
    assert answer.headers["Content-Type"].startswith("application/samlmetadata+xml")
    assert etree.fromstring(answer.content).get("entityID") == f"{server.url}/api/v3/sso/metadata"


def test_by_https_no_other_host_can_set_the_cookie(idp: Idp) -> None:
    base = "https://ci.example.com"
    with serve_in_process(idp.server, base_url=base) as process:
        login = f"{process.url}/api/v3/sso/login/{idp.id}"
        begun = requests.get(login, params={"return_to": "/"}, allow_redirects=False, timeout=10)
        cookie, *attributes = begun.headers["Set-Cookie"].split("; ")
        assert cookie.startswith("__Host-")
        assert {"Path=/", "Secure", "HttpOnly", "SameSite=None"} <= set(attributes)
        assert not [one for one in attributes if one.startswith("Domain")]

        name, _, request_id = cookie.partition("=")
        sso, asserted = f"{base}/api/v3/sso", idp.response(new_email(), in_response_to=request_id)
        response = signed(replace(asserted, recipient=f"{sso}/acs", audience=f"{sso}/metadata"))

        def come_back(cookies: str) -> int:
            form = {"SAMLResponse": response, "RelayState": "/"}
            acs = f"{process.url}/api/v3/sso/acs"
            headers = {"Cookie": cookies}
            return requests.post(acs, data=form, headers=headers, allow_redirects=False, timeout=10).status_code

        assert come_back(f"{name.removeprefix('__Host-')}={request_id}") == 401, "by plain http anybody sets such a one"
        assert come_back(cookie) == 303
