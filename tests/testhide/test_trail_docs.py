"""The commands of docs/audit.md about reading the trail, run as they stand there."""

import subprocess
from pathlib import Path

from tests.support.builders import given_build, given_job, given_project
from tests.support.documentation import ROOT, documented
from tests.support.server import Server
from tests.testhide.test_audit_docs import _environ

__all__ = ["_environ"]


def test_the_documented_commands(server: Server, environ: dict[str, str], tmp_path: Path) -> None:
    project = given_project(server)
    build = given_build(server, given_job(server, project))
    server.wait_until_projected()
    page = (ROOT / "docs" / "audit.md").read_text()
    (tmp_path / "rules.json").write_text(page.partition("```json\n")[2].partition("```")[0])
    environ |= {
        "URL": f"{server.url}/api/v3",
        "TOKEN": server.admin.token,
        "PROJECT": str(project),
        "BUILD": str(build),
    }
    for command in documented("docs/audit.md", "Reading the trail", "Replay with what-if rules"):
        done = subprocess.run(
            ["sh", "-c", command], cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        assert done.stdout
