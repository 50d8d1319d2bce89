"""The commands of docs/audit.md about the past, run as they stand there."""

import json
import subprocess

from tests.support.builders import given_build, given_job, given_project
from tests.support.documentation import documented
from tests.support.server import Server


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
    for command in documented("docs/audit.md", "Reading past states"):
        done = subprocess.run(
            ["sh", "-c", command], env=variables, capture_output=True, text=True, timeout=60, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        assert json.loads(done.stdout)
