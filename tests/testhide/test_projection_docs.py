"""The commands of docs/projections.md, run in their order as they stand there."""

import subprocess
from pathlib import Path

from projections import builds
from tests.support.builders import given_build, given_job, given_project
from tests.support.documentation import documented
from tests.support.server import Server
from tests.testhide.test_audit_docs import _environ

__all__ = ["_environ"]


def test_the_documented_commands(server: Server, environ: dict[str, str], tmp_path: Path) -> None:
    build = given_build(server, given_job(server, given_project(server)))
    environ |= {
        "URL": f"{server.url}/api/v3",
        "TOKEN": server.admin.token,
        "BUILD": str(build),
    }
    outputs: dict[str, str] = {}
    for command in documented(
        "docs/projections.md",
        "Status",
        "Rebuilding a read model",
        "A release with new read models",
        "Events that cannot be projected",
    ):
        done = subprocess.run(
            ["sh", "-c", command], cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        outputs[command] = done.stdout
    assert ": equal" in outputs["testhide projections diff builds"]
    assert outputs["testhide projections switch builds"].splitlines()[-1].startswith("switched builds at position ")
    assert outputs["testhide projections drop builds"] == f"dropped builds version {builds.VERSION} (previous)\n"
    assert "applied 0 parked events of builds, 0 left\n" in outputs["testhide projections retry builds"]
    assert server.admin.get(f"/api/v3/builds/{build}").status_code == 200


def test_everybody_signed_in_sees_how_they_stand(server: Server) -> None:
    answer = server.make_user("viewer").get("/api/v3/projections")
    assert answer.status_code == 200
    (live,) = [item for item in answer.json() if (item["name"], item["state"]) == ("builds", "serving")]
    assert (live["version"], live["place"], live["lag"], live["parked"]) == (builds.VERSION, "public", 0, 0)
    assert server.client().get("/api/v3/projections").status_code == 401
