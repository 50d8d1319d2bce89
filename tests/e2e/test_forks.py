"""A pull request from a fork, from the host's hook to the end of its build by a real agent."""

import hashlib
import hmac
import json
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import psycopg
import pytest

from tests.e2e.test_selection import Works
from tests.support.git_repository import GitRepository
from tests.support.server import Server

WITHIN_S = 30.0


@pytest.fixture
def works(server: Server, tmp_path: Path) -> Iterator[Works]:
    works = Works(server, tmp_path)
    server.start("work")
    try:
        wait_until_changes_are_followed(server)
        yield works
    finally:
        works.close()
        worker = server.processes.pop("work")
        worker.terminate()
        worker.join(10)


def wait_until_changes_are_followed(server: Server) -> None:
    """Waits for the worker: its reactions begin at the end of the log, when it starts for the first time."""
    query = "SELECT FROM reaction_positions WHERE reaction = 'start_builds_of_a_change'"
    deadline = time.monotonic() + WITHIN_S
    with psycopg.connect(server.engines.database_url, autocommit=True) as database:
        while not database.execute(query).fetchall():
            assert time.monotonic() < deadline, "the worker does not start"
            time.sleep(0.02)  # between two looks


def pushed_to_fork(repository: GitRepository, content: str) -> str:
    """A commit that only the ref of the pull request leads to, as at a host."""
    commit = repository.write("test.sh", content, "of-bob")
    repository.git("update-ref", "refs/pull/7/head", commit)
    repository.git("update-ref", "-d", "refs/heads/of-bob")
    return commit


def send_hook(works: Works, secret: str, commit: str) -> None:
    head = {"ref": "main", "sha": commit, "repo": {"full_name": "bob/web"}}
    pull = {"head": head, "base": {"ref": "main", "sha": commit}, "title": "Fix"}
    payload = {"action": "opened", "number": 7, "repository": {"full_name": "acme/web"}, "pull_request": pull}
    body = json.dumps(payload).encode()
    signature = f"sha256={hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()}"
    headers = {"X-GitHub-Event": "pull_request", "X-Hub-Signature-256": signature}
    answer = works.shop.server.client().post(f"/webhook/proj/{works.shop.project}", data=body, headers=headers)
    assert "wait for an approval" in answer.then(200)["detail"]


def found_build(works: Works, job: int, commit: str) -> dict[str, Any]:
    deadline = time.monotonic() + WITHIN_S
    while True:
        for build in works.shop.admin.fetch(f"/builds?job_id={job}")["results"]:
            if build["commit_sha"] == commit:
                found: dict[str, Any] = build
                return found
        assert time.monotonic() < deadline, "the hook has started no build"
        time.sleep(0.05)  # between two looks


def test_an_approved_commit_of_a_fork_runs_without_secrets(works: Works, tmp_path: Path) -> None:
    repository = GitRepository(tmp_path / "acme" / "web.git")
    first = pushed_to_fork(repository, 'echo "secret: ${KEY-none}, variable: $A"')
    shop = works.shop
    shop.admin.when("PUT", f"/node-pools/{shop.pool}", json={"untrusted": True}).then(200)
    job = shop.new_job(repository=str(repository.path))
    configuration = {"command": "sh test.sh", "setup": [], "env": {"A": "1"}, "artifacts": [], "secrets": {"KEY": "x"}}
    shop.admin.when("PUT", f"/jobs/{job}/configuration", json=configuration).then(200)
    shop.admin.when("PUT", f"/jobs/{job}/triggers", json={"fork_pull_requests": True}).then(200)
    secret = shop.admin.when("POST", f"/projects/{shop.project}/rotate-webhook-secret").then(200)["webhook_secret"]

    send_hook(works, secret, first)
    build = found_build(works, job, first)
    assert (build["status"], build["awaits_approval"], build["branch"]) == ("queued", True, "refs/pull/7/head")
    shop.admin.when("POST", f"/builds/{build['id']}/approve").then(200)
    ended = works.ended(build["id"])
    assert (ended["status"], ended["commit_sha"]) == ("passed", first)
    assert "secret: none, variable: 1" in works.log(build["id"])

    second = pushed_to_fork(repository, "echo another; exit 0")
    send_hook(works, secret, second)
    assert found_build(works, job, second)["awaits_approval"], "the approval was of the first commit"
