"""The commands of docs/triggers.md, as they stand there."""

import json
import os
import re
import subprocess
from typing import Any

from commands.hooks.signatures import make_signing_token
from tests.support.builders import CONFIGURATION, REPOSITORY, given_job
from tests.support.documentation import ROOT, documented
from tests.support.server import Server


def run(command: str, **variables: str) -> str:
    shown = subprocess.run(
        ["sh", "-c", command], env=os.environ | variables, capture_output=True, text=True, check=True, timeout=30
    )
    return shown.stdout


def test_the_documented_requests(server: Server, project: int) -> None:
    job = given_job(server, project, repository=REPOSITORY)
    server.admin.when("PUT", f"/jobs/{job}/configuration", json=CONFIGURATION).then(200)
    triggers = {"branches": ["main", "release/*"]}
    server.admin.when("PUT", f"/jobs/{job}/triggers", json=triggers).then(200)
    explain, notify = [
        text.replace("/55/", f"/{job}/")
        .replace(" 12,", f" {project},")
        .replace("https://testhide.example.com", server.url)
        for text in documented("docs/triggers.md", "Triggers", "Hooks")
    ]
    answer: dict[str, Any] = json.loads(run(explain, TOKEN=server.admin.token))
    assert answer == {"starts": True, "why": "would start because branch release/3 matches release/*"}
    assert json.loads(run(notify, TOKEN=server.admin.token))["queued"] == 1


def test_the_documented_time_table(server: Server, job: int) -> None:
    (shown,) = re.findall(r'^    (\{"cron".*)$', (ROOT / "docs" / "triggers.md").read_text(), re.MULTILINE)
    server.admin.when("PUT", f"/jobs/{job}/triggers", json=json.loads(shown)).then(200)


def test_the_documented_signing_token() -> None:
    (command,) = re.findall(
        r"^    (printf .*WEBHOOK_SECRET.*)$", (ROOT / "docs" / "triggers.md").read_text(), re.MULTILINE
    )
    assert run(command, WEBHOOK_SECRET="wh_sec_1") == f"{make_signing_token('wh_sec_1')}\n"
