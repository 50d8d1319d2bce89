"""Identity providers from the URL of their metadata, with a server of ours that publishes it."""

import hashlib
import random
from base64 import b64decode
from collections.abc import Iterator
from dataclasses import dataclass, field
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from threading import Thread

import pytest

from tests.support.http import Client
from tests.support.in_process_server import serve_in_process
from tests.support.saml_idp import SSO_URL, SigningKey, metadata, signing_key
from tests.support.server import ADMIN, Server

OLD, NEW = signing_key("idp"), signing_key("newer")


@pytest.fixture(scope="module")
def admin(server: Server) -> Iterator[Client]:
    """The administrator, at a process that may call this machine."""
    with serve_in_process(server, outgoing_allow="127.0.0.0/8") as process:
        yield process.client(*ADMIN)


@dataclass
class Published:
    """Metadata at a URL."""

    url: str
    entity_id: str = field(default_factory=lambda: f"https://idp.example.com/{random.randrange(2**40)}")
    status: int = 200
    body: bytes = b""

    def publish(self, *keys: SigningKey, sso_url: str = SSO_URL) -> None:
        self.body = metadata(self.entity_id, *keys, sso_url=sso_url)


@pytest.fixture
def published() -> Iterator[Published]:
    class Handler(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            self.send_response(made.status)
            self.end_headers()
            self.wfile.write(made.body)

        def log_message(self, format: str, *args: object) -> None:
            pass

    with ThreadingHTTPServer(("127.0.0.1", 0), Handler) as http:
        made = Published(f"http://127.0.0.1:{http.server_port}/metadata")
        thread = Thread(target=http.serve_forever, args=(0.01,))
        thread.start()
        try:
            yield made
        finally:
            http.shutdown()
            thread.join()


def test_a_provider_follows_its_metadata(admin: Client, published: Published) -> None:
    published.publish(OLD)
    provider = admin.create("/identity-providers", name="Company", metadata_url=published.url)
    assert (provider["entity_id"], provider["metadata_url"]) == (published.entity_id, published.url)
    path = f"/api/v3/identity-providers/{provider['id']}"
    (old,) = (hashlib.sha256(b64decode(one)).hexdigest() for one in provider["certificates"])
    same = admin.post(f"{path}/refresh").then(200)
    assert (same["certificates"], same["certificates_added"], same["certificates_removed"]) == ([old], [], [])

    published.publish(NEW, sso_url="http://127.0.0.1:9/new")
    changed = admin.post(f"{path}/refresh").then(200)
    (new,) = changed["certificates"]
    assert (changed["certificates_added"], changed["certificates_removed"]) == ([new], [old])
    assert (changed["sso_url_before"], changed["sso_url"]) == (SSO_URL, "http://127.0.0.1:9/new")
    last = admin.fetch(f"/audit/streams/identity-provider-{provider['id']}")[-1]
    assert f"changed sso_url, certificates of identity provider {provider['id']}" in last["summary"]

    by_hand = {"certificates": provider["certificates"]}
    refused = admin.put(path, json=by_hand)
    assert (refused.status_code, refused.json()["errors"][0]["field"]) == (422, "metadata_url")
    shown = admin.put(path, json=by_hand | {"metadata_url": None}).then(200)
    assert (shown["metadata_url"], shown["certificates"]) == (None, provider["certificates"])
    assert admin.post(f"{path}/refresh").status_code == 409
    shown = admin.put(path, json={"metadata_url": published.url}).then(200)
    assert (shown["metadata_url"], shown["certificates"] == provider["certificates"]) == (published.url, False)


def test_metadata_that_cannot_be_had(admin: Client, published: Published) -> None:
    published.publish(OLD)
    provider = admin.create("/identity-providers", name="Company", metadata_url=published.url)
    path = f"/api/v3/identity-providers/{provider['id']}/refresh"
    for status, body, why in (
        (404, b"", "status 404"),
        (200, b"<html/>", "must describe one identity provider"),
        (200, b"x" * 1_000_001, "more than 1,000,000 bytes"),
    ):
        published.status, published.body = status, body
        answer = admin.post(path)
        assert (answer.status_code, why in answer.json()["detail"]) == (502, True), answer.text
    published.status, published.entity_id = 200, f"{published.entity_id}/other"
    published.publish(NEW)
    assert admin.post(path).status_code == 409
    create = {"name": "Company", "metadata_url": published.url}
    for more in ({"metadata": published.body.decode()}, {"sso_url": SSO_URL}, {"metadata_url": "https://10.0.0.1/"}):
        assert admin.post("/api/v3/identity-providers", json=create | more).status_code == 422
    assert admin.fetch(f"/identity-providers/{provider['id']}")["certificates"] == provider["certificates"]
