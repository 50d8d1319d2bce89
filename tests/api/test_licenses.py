"""What the licence allows: seats and gated features."""

from datetime import UTC, datetime, timedelta
from pathlib import Path

import msgspec
import pytest
from msgspec import structs

from domain.core.errors import Forbidden
from domain.licenses import CAPABILITIES, COMMUNITY, License
from store.audit.signed_notes import SigningKey
from store.clock import utcnow
from testhide.licenses import load_license
from testhide.operator_errors import Fault
from testhide.settings import Settings
from tests.api.test_sso import given_idp
from tests.support.in_process_server import serve_in_process
from tests.support.saml_idp import Response
from tests.support.saml_idp import signed as encoded
from tests.support.server import ADMIN, Server

SIGNER = SigningKey.new("licences.example.com")
END = datetime(2099, 12, 31, tzinfo=UTC)
TEAM = License("team", 25, END, ("sso",), "Example Ltd")


def signed(path: Path, license: License, signer: SigningKey = SIGNER) -> Settings:
    """Settings of a server with this licence file."""
    path.write_text(signer.sign(msgspec.json.encode(license).decode() + "\n"))
    key = str(SIGNER.verifier)
    return Settings(database_url="", redis_url="", secret_key=b"", data_dir="", license=str(path), license_key=key)


def test_without_a_file_everything_is_enabled(server: Server) -> None:
    status = server.admin.fetch("/license/status")
    users = server.admin.fetch("/users", limit=200)["results"]
    assert (status["tier"], status["valid"]) == ("community", True)
    assert status["seats_used"] == sum(user["active"] for user in users) <= status["seats_licensed"]
    assert all(status["capabilities"][name] is True for name in CAPABILITIES)
    assert server.make_user("viewer").fetch("/config")["features"] == dict.fromkeys(CAPABILITIES, True)


def test_a_file_must_be_signed_by_the_key(tmp_path: Path) -> None:
    file = tmp_path / "licence"
    settings = signed(file, TEAM)
    assert load_license(settings) == TEAM
    assert load_license(structs.replace(settings, license="")) == COMMUNITY
    file.write_text(file.read_text().replace('"seats":25', '"seats":99'))
    with pytest.raises(Fault, match="was changed after it was signed"):
        load_license(settings)
    with pytest.raises(Fault, match="is not one of the keys"):
        load_license(signed(file, TEAM, SigningKey.new("licences.example.com")))
    with pytest.raises(Fault, match="no verifier key"):
        load_license(structs.replace(settings, license_key=""))
    with pytest.raises(Fault, match="No such file"):
        load_license(structs.replace(settings, license=str(tmp_path / "none")))


def test_a_missing_entitlement_is_named() -> None:
    TEAM.require("sso", END)
    with pytest.raises(Forbidden, match=r"`vcenter`, which the team licence does not include"):
        TEAM.require("vcenter", END)
    with pytest.raises(Forbidden, match=r"`sso`, which the team licence, which ended on 2099-12-31, does not"):
        TEAM.require("sso", END + timedelta(seconds=1))
    for capability in CAPABILITIES:
        COMMUNITY.require(capability, utcnow())


def test_single_sign_on_is_gated(server: Server, tmp_path: Path) -> None:
    settings = signed(tmp_path / "licence", structs.replace(TEAM, capabilities=()))
    licensed = structs.replace(server.settings, license=settings.license, license_key=settings.license_key)
    with serve_in_process(Server(server.url, server.engines, licensed)) as inside:
        client = inside.client(*ADMIN)
        for refused in (
            client.when("GET", "/sso/login/1"),
            client.when("POST", "/sso", json={"saml_response": "x"}),
        ):
            assert "entitlement `sso`" in refused.then(403)["detail"]


def test_seats_are_limited(server: Server, tmp_path: Path) -> None:
    used = server.admin.fetch("/license/status")["seats_used"]
    settings = signed(tmp_path / "licence", structs.replace(TEAM, seats=used + 1))
    licensed = structs.replace(server.settings, license=settings.license, license_key=settings.license_key)
    with serve_in_process(Server(server.url, server.engines, licensed)) as inside:
        admin = inside.client(*ADMIN)
        invited = admin.create("/users", email="last@example.com", role="viewer")["id"]
        refused = admin.when("POST", "/users", json={"email": "more@example.com", "role": "viewer"}).then(403)
        assert "entitlement `max_users`" in refused["detail"]
        admin.when("PUT", f"/users/{invited}", json={"active": False}).then(200)
        other = admin.create("/users", email="other@example.com", role="viewer")["id"]
        admin.when("PUT", f"/users/{invited}", json={"active": True}).then(403)
        status = admin.fetch("/license/status")
        assert (status["tier"], status["seats_used"], status["seats_licensed"]) == ("team", used + 1, used + 1)
        assert status["capabilities"].items() >= {"sso": True, "vcenter": False, "max_users": used + 1}.items()
        idp = given_idp(server)  # both have one database
        url = f"{inside.url}/api/v3/sso"
        response = encoded(Response(url, f"{url}/metadata", name_id="new@example.com", issuer=idp.entity_id))
        refused = admin.when("POST", "/sso", json={"saml_response": response}).then(403)
        assert "entitlement `max_users`" in refused["detail"]
        for user in (invited, other):
            admin.when("DELETE", f"/users/{user}").then(204)
