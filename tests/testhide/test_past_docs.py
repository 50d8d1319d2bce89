"""The commands of docs/audit.md about the past, run as they stand there."""

import json
import subprocess

from tests.support.builders import given_build, given_job, given_project
from tests.support.server import Server
from tests.testhide.test_audit_docs import DOCS

HEADING = "## Reading past states"


def test_the_documented_commands(server: Server) -> None:
    admin = server.admin
    build = given_build(server, given_job(server, given_project(server)))
    commented = admin.post(f"/api/v3/builds/{build}/comment", json={"text": "Look"})
    variables = {
        "URL": f"{server.url}/api/v3",
        "TOKEN": admin.token,
        "BUILD": str(build),
        "USER_ID": str(admin.get("/api/v3/me").json()["id"]),
        "POSITION": commented.headers["Testhide-Position"],
        "TIME": commented.json()["created_at"],
    }
    section = DOCS.read_text().partition(f"\n{HEADING}\n")[2].partition("\n## ")[0]
    commands = [line.strip() for line in section.splitlines() if line.startswith("    ")]
    assert len(commands) == 4
    for command in commands:
        done = subprocess.run(
            ["sh", "-c", command], env=variables, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        assert json.loads(done.stdout)
