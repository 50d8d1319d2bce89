"""The identity provider of these tests: samlp, which others wrote."""

import subprocess
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.support.saml_idp import signing_key
from tests.support.server import Server


@pytest.fixture
def idp(server: Server, tmp_path: Path) -> Iterator[str]:
    """The address of the identity provider."""
    key, certificate = tmp_path / "key.pem", tmp_path / "certificate.pem"
    key.write_bytes(signing_key("samlp").key)
    certificate.write_bytes(signing_key("samlp").certificate)
    command = ["node", "idp.js", str(key), str(certificate), f"{server.url}/api/v3/sso/acs"]
    with subprocess.Popen(command, cwd=Path(__file__).parent, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        try:
            yield process.stdout.readline().strip()
        finally:
            process.terminate()
            for provider in server.admin.fetch("/identity-providers"):
                if provider["entity_id"] == "urn:samlp":
                    server.admin.delete(f"/api/v3/identity-providers/{provider['id']}").then(204)
            for user in server.admin.fetch("/users", search="ada@example.com")["results"]:
                server.admin.delete(f"/api/v3/users/{user['id']}").then(204)
