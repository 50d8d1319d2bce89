"""`testhide replay`: stories and counterfactuals on the command line."""

import json
import subprocess
from pathlib import Path

import pytest

from commands.what_if.rules import read_rules
from domain.core.errors import Invalid
from tests.support.builders import given_build, given_job, given_project, upload
from tests.support.forked_process import run_forked
from tests.support.server import Server

REPORT = b"""<testsuite name="s">
<testcase classname="t.test_x" name="test_a"><failure message="no such host">trace</failure></testcase>
</testsuite>"""


@pytest.fixture(name="build", scope="module")
def _build(server: Server) -> tuple[int, int, int]:
    """Project, job and build."""
    project = given_project(server)
    job = given_job(server, project)
    build = given_build(server, job, branch="main")
    server.admin.post(f"/api/v3/builds/{build}/comment", json={"text": "seeing \x1b[31mred"}).raise_for_status()
    upload(server.admin, build, REPORT)
    server.admin.post(f"/api/v3/builds/{build}/finish", json={"status": "failed"}).raise_for_status()
    server.wait_until_projected()
    return project, job, build


def replay(server: Server, *arguments: str) -> subprocess.CompletedProcess[str]:
    settings = Path(server.settings.data_dir, "settings.json")
    return run_forked("replay", *arguments, TESTHIDE_SETTINGS=str(settings))


def test_the_story_of_a_build(server: Server, build: tuple[int, int, int]) -> None:
    _, job, number = build
    replayed = replay(server, f"build-{number}")
    assert (replayed.returncode, replayed.stderr) == (0, "")
    assert f"queued build {number} of job {job} on “main”." in replayed.stdout
    assert f"commented on build {number}: “seeing  [31mred”." in replayed.stdout
    assert "status: queued -> running" in replayed.stdout
    assert "status: running -> failed" in replayed.stdout
    assert "\x1b" not in replayed.stdout


def test_the_story_of_a_stream_without_a_state(server: Server, build: tuple[int, int, int]) -> None:
    replayed = replay(server, f"results-{build[2]}")
    assert replayed.returncode == 0
    assert f"of build {build[2]}." in replayed.stdout


def test_what_other_rules_would_have_made_of_it(server: Server, build: tuple[int, int, int], tmp_path: Path) -> None:
    project, job, _ = build
    rules = tmp_path / "rules.json"
    issue = {"title": "DNS", "classification": "infra", "pattern": "no such host"}
    rules.write_text(
        json.dumps({"known_issues": [issue], "quarantine": [{"job_id": job, "node_ids": ["t/test_x.py"]}]})
    )
    replayed = replay(server, "--rules", str(rules), "--project", str(project), "--since", "2020-01-01")
    assert (replayed.returncode, replayed.stderr) == (0, "")
    assert "unclassified -> infra (DNS)" in replayed.stdout
    assert "1 failures in 1 reports of 1 builds that ended: 1 would be classified otherwise" in replayed.stdout
    assert replay(server, "--rules", str(rules), "--since", "2999-01-01").stdout.startswith("0 failures")


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        ((), "Say either"),
        (("build-99999999",), "There is no stream 'build-99999999'"),
        (("build-1", "--rules", "x.json"), "Say either"),
        (("--rules", "nowhere.json"), "nowhere.json cannot be read"),
        (("--rules", "RULES", "--since", "yesterday"), "is no time"),
        (("--rules", "RULES", "--project", "99999999"), "There is no project 99999999"),
        (("--rules", "WRONG"), "known_issues[0].classification"),
    ],
)
def test_what_is_wrong_is_said(server: Server, tmp_path: Path, arguments: tuple[str, ...], says: str) -> None:
    rules, wrong = tmp_path / "RULES", tmp_path / "WRONG"
    rules.write_text('{"quarantine": []}')
    wrong.write_text('{"known_issues": [{"title": "x", "classification": "weather", "pattern": "x"}]}')
    files = {"RULES": str(rules), "WRONG": str(wrong)}
    replayed = replay(server, *(files.get(argument, argument) for argument in arguments))
    assert replayed.returncode == 2, replayed.stderr
    assert says in replayed.stderr
    assert "Traceback" not in replayed.stderr


def test_all_that_is_wrong_is_said_at_once() -> None:
    rules = {"known_issues": [{"title": 5, "clasification": "infra"}], "more": 1}
    with pytest.raises(Invalid) as refused:
        read_rules(json.dumps(rules).encode())
    assert {(error.field, error.message) for error in refused.value.errors} == {
        ("known_issues[0].title", "must be a text of 1 to 200 characters, not 5"),
        ("known_issues[0].classification", "is required"),
        ("known_issues[0].clasification", "is not known here; did you mean classification?"),
        ("more", "is not known here; possible are besides, known_issues, quarantine"),
    }
