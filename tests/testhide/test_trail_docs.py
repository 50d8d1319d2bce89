"""The commands of docs/audit.md about reading the trail, run as they stand there."""

import subprocess
from pathlib import Path

from tests.support.builders import given_build, given_job, given_project
from tests.support.server import Server
from tests.testhide.test_audit_docs import DOCS, _environ

__all__ = ["_environ"]

HEADING = "## Reading the trail"


def section() -> str:
    return DOCS.read_text().partition(f"\n{HEADING}\n")[2].partition("\n## ")[0]


def commands() -> list[str]:
    lines = [line[4:] for line in section().splitlines() if line.startswith("    ")]
    return [line for line in lines if line.startswith(("testhide ", "curl "))]


def test_the_documented_commands(server: Server, environ: dict[str, str], tmp_path: Path) -> None:
    project = given_project(server)
    build = given_build(server, given_job(server, project))
    server.wait_until_projected()
    (tmp_path / "rules.json").write_text(section().partition("```json\n")[2].partition("```")[0])
    environ |= {
        "URL": f"{server.url}/api/v3",
        "TOKEN": server.admin.token,
        "PROJECT": str(project),
        "BUILD": str(build),
    }
    assert len(commands()) == 8
    for command in commands():
        done = subprocess.run(
            ["sh", "-c", command], cwd=tmp_path, env=environ, capture_output=True, text=True, timeout=120, check=False
        )
        assert done.returncode == 0, f"{command}\n{done.stdout}{done.stderr}"
        assert done.stdout
