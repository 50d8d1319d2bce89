"""Inbound hooks and `git-notify` over HTTP. What changes start is tested in tests/workers/test_changes.py."""

import hashlib
import hmac
import json
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any
from uuid import uuid4

import psycopg
import pytest

from commands.waiting_changes import MAX_WAITING
from domain.changes import EVALUATION
from projections.projects import ProjectRow
from tests.support.builders import CONFIGURATION, REPOSITORY, given_job, given_project
from tests.support.http import Answer
from tests.support.server import Server

REFUSED = "not signed with the webhook secret"


@dataclass
class Hook:
    """The hook of a project, as a host calls it."""

    server: Server
    project: int
    secret: str
    repository: str

    def send(
        self, payload: Any, event: str = "push", *, path: str = "", secret: str | None = None, **headers: str
    ) -> Answer:
        body = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
        digest = hmac.new((self.secret if secret is None else secret).encode(), body, hashlib.sha256).hexdigest()
        sent = {"X-GitHub-Event": event, "X-Hub-Signature-256": f"sha256={digest}", "Content-Type": "application/json"}
        sent |= {name.replace("_", "-"): value for name, value in headers.items()}
        url = path or f"/webhook/proj/{self.project}"
        return self.server.client().post(url, data=body, headers=sent)

    def push(self, branch: str = "main", **more: Any) -> dict[str, Any]:
        return {"ref": f"refs/heads/{branch}", "after": "c0ffee", "repository": {"full_name": self.repository}} | more

    def changes(self) -> list[dict[str, Any]]:
        """The recorded changes, newest first, as the audit trail shows them."""
        self.server.wait_until_projected()
        query = f"/audit/events?project_id={self.project}&type=change.received"
        found: list[dict[str, Any]] = self.server.admin.fetch(query)
        return found


def id_of(change: dict[str, Any]) -> int:
    return int(change["stream"].removeprefix("change-"))


@pytest.fixture
def hook(server: Server) -> Hook:
    project = given_project(server)
    answer = server.admin.when("POST", f"/projects/{project}/rotate-webhook-secret").then(200)
    return Hook(server, project, answer["webhook_secret"], f"acme/{uuid4().hex}")


def test_a_push_is_recorded(hook: Hook) -> None:
    answer = hook.send(hook.push()).then(200)
    (change,) = hook.changes()
    starts = "The triggers of the project's jobs decide which builds it starts"
    assert answer == {
        "accepted": True,
        "project_id": hook.project,
        "branch": "main",
        "sync_queued": False,
        "detail": f"{starts}: see GET /changes/{id_of(change)}.",
        "changes": 1,
    }
    assert change["actor"] == "system:hook"
    assert "reported the push of “main”" in change["summary"]


def test_a_push_that_may_change_the_file_of_pipelines_says_so(hook: Hook) -> None:
    endpoint = {"type": "github", "name": "Main", "project_id": hook.project, "repo": hook.repository, "token": "t"}
    hook.server.admin.post("/api/v3/scm", json=endpoint).then(201)
    commits = [{"id": "c0ffee", "message": "Fix", "modified": ["src/app.py"]}]
    assert hook.send(hook.push(commits=commits, forced=False)).then(200)["sync_queued"] is False
    for more in ({}, {"forced": True}):
        assert hook.send(hook.push(commits=commits) | more).then(200)["sync_queued"] is True
    answer = hook.send(hook.push(commits=commits)).then(200)
    assert answer["detail"].endswith(
        f"Builds are queued when the sync of main has ended: see GET /changes/{id_of(hook.changes()[0])}."
    )
    assert hook.send(hook.push("trial")).then(200)["sync_queued"] is False
    commits[0]["modified"] = [".testhide.yml"]
    assert hook.send(hook.push(commits=commits)).then(200)["sync_queued"] is True


def test_a_change_says_why_its_paths_are_unknown(hook: Hook) -> None:
    commits = [{"message": "Fix", "modified": ["src/app.py"]}]
    pull = {"head": {"ref": "fix", "sha": "c0ffee"}, "base": {"ref": "main", "sha": "beef"}}
    hook.send(hook.push(commits=commits, before="beef", forced=False)).then(200)
    hook.send(hook.push(commits=commits, before="beef", forced=True)).then(200)
    hook.send(hook.push(ref="refs/tags/v1")).then(200)
    asked = {"action": "opened", "number": 7, "pull_request": pull, "repository": {"full_name": hook.repository}}
    hook.send(asked, "pull_request").then(200)
    changes = [hook.server.admin.fetch(f"/changes/{id_of(change)}") for change in reversed(hook.changes())]
    known, forced, tag, pull_request = (change["paths_unknown"] for change in changes)
    assert known == tag == ""
    assert "force push" in forced
    assert pull_request == "No host says which paths a pull request changes."


def test_a_message_that_comes_again_is_recorded_once(hook: Hook) -> None:
    first = hook.send(hook.push(), X_GitHub_Delivery="d-1").then(200)
    assert hook.send(hook.push(), X_GitHub_Delivery="d-1").then(200) == first | {
        "detail": "This message was received before, so it starts nothing more."
    }
    assert len(hook.changes()) == 1
    hook.send(hook.push(), X_GitHub_Delivery="d-2").then(200)
    assert len(hook.changes()) == 2


@pytest.mark.parametrize(
    ("headers", "detail"),
    [
        ({"X_Hub_Signature_256": ""}, "has no signature"),
        ({"X_Hub_Signature_256": "sha256=00"}, REFUSED),
        ({"secret": ""}, REFUSED),
        ({"secret": "other"}, REFUSED),
    ],
)
def test_a_message_that_is_not_signed_is_refused(hook: Hook, headers: dict[str, Any], detail: str) -> None:
    refused = hook.send(hook.push(), **headers)
    assert refused.status_code == 401
    assert detail in refused.json()["detail"]
    assert hook.changes() == []


def test_an_unknown_project_is_refused_in_the_same_way(hook: Hook) -> None:
    unknown = hook.send(hook.push(), path="/webhook/proj/999999")
    assert unknown.then(401)["detail"] == hook.send(hook.push(), secret="other").then(401)["detail"]


def test_a_secret_ends_with_its_rotation(hook: Hook) -> None:
    hook.server.admin.when("POST", f"/projects/{hook.project}/rotate-webhook-secret").then(200)
    hook.send(hook.push()).then(401)


def test_a_secret_ends_with_its_rotation_also_while_read_models_are_behind(hook: Hook) -> None:
    table, column = ProjectRow.table, "sealed_webhook_secret"
    with psycopg.connect(hook.server.settings.database_url, autocommit=True) as connection:
        before = connection.execute(f"SELECT {column} FROM {table} WHERE id = %s".encode(), [hook.project]).fetchone()
        assert before is not None
        rotated = hook.server.admin.when("POST", f"/projects/{hook.project}/rotate-webhook-secret").then(200)
        connection.execute(f"UPDATE {table} SET {column} = %s WHERE id = %s".encode(), [before[0], hook.project])
    hook.send(hook.push()).then(401)
    hook.send(hook.push(), secret=rotated["webhook_secret"]).then(200)


def test_a_project_with_many_waiting_changes_may_report_no_more_for_now(hook: Hook) -> None:
    last = 10**12 + hook.project * 10_000
    waiting = (
        "INSERT INTO due_reactions (reaction, position, due_at, project_id)"
        " SELECT %s, n, now() + interval '1 hour', %s FROM generate_series(%s::bigint, %s::bigint) n"
    )
    with psycopg.connect(hook.server.settings.database_url, autocommit=True) as connection:
        connection.execute(waiting, [EVALUATION, hook.project, last - MAX_WAITING + 1, last])
        try:
            refused = hook.send(hook.push(), X_GitHub_Delivery="d-1")
            assert refused.then(429)["detail"].startswith("2,000 changes of project")
            assert refused.headers["Retry-After"] == "60"
            change = {"project_id": hook.project, "branch": "main", "commit_sha": "c0ffee"}
            hook.server.admin.when("POST", "/builds/git-notify", json=change).then(429)
            assert hook.changes() == []
            connection.execute("DELETE FROM due_reactions WHERE position = %s", [last])
            hook.send(hook.push(), X_GitHub_Delivery="d-1").then(200)
        finally:
            connection.execute("DELETE FROM due_reactions WHERE position BETWEEN %s AND %s", [last - MAX_WAITING, last])
    assert len(hook.changes()) == 1


def test_a_message_is_taken_although_its_project_changes_meanwhile(hook: Hook) -> None:
    url = hook.server.settings.database_url
    blocked = "SELECT FROM pg_locks WHERE relation = 'due_reactions'::regclass AND NOT granted"
    with (
        psycopg.connect(url) as locking,
        psycopg.connect(url, autocommit=True) as asking,
        ThreadPoolExecutor() as sender,
    ):
        locking.execute("LOCK TABLE due_reactions IN ACCESS EXCLUSIVE MODE")
        sending = sender.submit(hook.send, hook.push())  # counts the waiting changes when it has loaded the project
        while not asking.execute(blocked).fetchall():
            assert not sending.done()
        hook.server.admin.when("POST", f"/projects/{hook.project}/rotate-webhook-secret").then(200)
        locking.rollback()
        sending.result().then(200)
    assert len(hook.changes()) == 1


def test_a_stranger_does_not_learn_which_repositories_are_built(hook: Hook) -> None:
    path = "/api/v3/gitops/webhook"
    unknown = hook.send(hook.push(), path=path, secret="other").then(401)["detail"]
    given_job(hook.server, hook.project, repository=f"https://github.com/{hook.repository}")
    hook.server.wait_until_projected()
    assert hook.send(hook.push(), path=path, secret="other").then(401)["detail"] == unknown
    nameless = hook.push(repository={"full_name": "acme/"})
    assert hook.send(nameless, path=path).then(401)["detail"] == unknown


def test_a_message_is_verified_before_it_is_read(hook: Hook) -> None:
    assert hook.send(b"{", secret="other").status_code == 401
    assert "cannot be read" in hook.send(b"{").then(422)["detail"]


def test_messages_without_changes(hook: Hook) -> None:
    pinged = hook.send({"zen": "x", "hook_id": 1}, "ping").then(200)
    assert (pinged["accepted"], pinged["branch"], pinged["detail"]) == (False, None, "The hook reaches this server.")
    ignored = hook.send({"action": "created"}, "star").then(202)
    assert (ignored["accepted"], ignored["detail"]) == (False, "Events of the type star start nothing.")
    assert hook.changes() == []


def test_what_starts_nothing_says_so(hook: Hook) -> None:
    assert "was deleted" in hook.send(hook.push(after="0" * 40, deleted=True)).then(200)["detail"]
    pull = {"head": {"ref": "fix", "sha": "c0ffee", "repo": None}, "base": {"ref": "main", "sha": "c0ffee"}}
    payload = hook.push(action="opened", number=7, pull_request=pull)
    assert "fork" in hook.send(payload, "pull_request").then(200)["detail"]


def test_a_pull_request_with_a_number_out_of_range(hook: Hook) -> None:
    pull = {"head": {"ref": "fix", "sha": "c0ffee", "repo": None}, "base": {"ref": "main", "sha": "c0ffee"}}
    payload = hook.push(action="opened", number=2**64, pull_request=pull)
    assert "out of range" in hook.send(payload, "pull_request").then(422)["detail"]


def test_a_branch_that_git_could_take_for_a_pull_request(hook: Hook) -> None:
    assert "must not begin with refs/" in hook.send(hook.push("refs/pull/5/head")).then(422)["detail"]


@pytest.mark.parametrize("branch", ["-x", "a b", "a:b"])
def test_names_that_git_does_not_allow(hook: Hook, branch: str) -> None:
    assert "does not allow" in hook.send(hook.push(branch)).then(422)["detail"]


def test_texts_that_each_change_of_a_push_would_repeat(hook: Hook) -> None:
    """200 changes of one message, each with the name of the repository, were 877 MiB of events."""
    head = {"id": 1, "displayId": "main", "latestCommit": "c0ffee"}
    moved = {"ref": {"displayId": "main", "type": "BRANCH"}, "fromHash": "c0ffee", "toHash": "decade", "type": "UPDATE"}

    def named(slug: str, project: str = "ACME") -> dict[str, Any]:
        return {"slug": slug, "project": {"key": project}}

    def send(event: str, payload: Any) -> Answer:
        return hook.send(payload, X_GitHub_Event="", X_Event_Key=event)

    push = {"repository": named("web"), "changes": [moved]}
    send("repo:refs_changed", push).then(200)
    send("repo:refs_changed", push | {"repository": named("w" * 500)}).then(422)
    send("repo:refs_changed", push | {"changes": [moved | {"fromHash": "c" * 65}]}).then(422)
    theirs, ours = head | {"repository": named("web", "BOB")}, head | {"repository": named("web")}
    pull = {"id": 7, "fromRef": theirs, "toRef": ours}
    send("pr:opened", {"pullRequest": pull}).then(200)
    for more in (
        {"fromRef": head | {"repository": named("w" * 500)}},
        {"toRef": ours | {"displayId": "m" * 501}},
    ):
        send("pr:opened", {"pullRequest": pull | more}).then(422)


def test_other_bodies(hook: Hook) -> None:
    form = hook.send(b"payload=%7B%7D", Content_Type="application/x-www-form-urlencoded")
    assert form.status_code == 415
    assert hook.send(b" " * (5 * 1024**2 + 1)).status_code == 413
    large = hook.push(commits=[{"added": [f"src/{number:0200}"]} for number in range(10_000)])
    hook.send(large).then(200)


def test_the_project_is_found_by_its_repository(hook: Hook) -> None:
    path = "/api/v3/gitops/webhook"
    assert "No project is known" in hook.send(hook.push(), path=path).then(401)["detail"]
    given_job(hook.server, hook.project, repository=f"git@github.com:{hook.repository.upper()}.git")
    given_job(hook.server, given_project(hook.server), repository=f"https://github.com/{hook.repository}")
    hook.server.wait_until_projected()
    assert hook.send(hook.push(), path=path).then(200)["project_id"] == hook.project, "whose secret signed it"
    assert hook.send(hook.push(), path=path, secret="other").status_code == 401
    assert hook.send(hook.push(), path=f"{path}?project_id={hook.project}").then(200)["accepted"]


def test_hooks_of_other_hosts(hook: Hook) -> None:
    project = {"path_with_namespace": hook.repository}
    push = {"ref": "refs/heads/main", "after": "c0ffee", "project": project, "commits": []}
    url = f"/webhook/proj/{hook.project}"
    headers = {"X-Gitlab-Event": "Push Hook", "X-Gitlab-Token": hook.secret}
    assert hook.server.client().post(url, json=push, headers=headers).then(200)["branch"] == "main"
    bad = headers | {"X-Gitlab-Token": "other"}
    assert hook.server.client().post(url, json=push, headers=bad).status_code == 401


def notify(server: Server, project: int, **more: Any) -> dict[str, Any]:
    body = {"project_id": project, "branch": "main", "commit_sha": "c0ffee00"} | more
    answer: dict[str, Any] = server.admin.when("POST", "/builds/git-notify", json=body).then(200)
    return answer


def test_git_notify_starts_builds(server: Server, project: int) -> None:
    wanting, without_command, other = (given_job(server, project, repository=REPOSITORY) for _ in range(3))
    bare = given_job(server, project)
    for job in (wanting, other, bare):
        server.admin.when("PUT", f"/jobs/{job}/configuration", json=CONFIGURATION).then(200)
    for job, branches in ((wanting, ["main"]), (without_command, ["**"]), (other, ["release/*"]), (bare, ["main"])):
        server.admin.when("PUT", f"/jobs/{job}/triggers", json={"branches": branches}).then(200)
    server.wait_until_projected()
    answer = notify(server, project, author="ann@example.com", message="Fix\n\nBody")
    assert answer["queued"] == len(answer["build_ids"]) == 1
    assert [refused["job_id"] for refused in answer["refused"]] == [without_command, bare]
    assert "has no repository and its project no SCM endpoint" in answer["refused"][1]["why"]
    server.wait_until_projected()
    build = server.admin.fetch(f"/builds/{answer['build_ids'][0]}")
    assert (build["job_id"], build["branch"], build["commit_sha"]) == (wanting, "main", "c0ffee00")
    assert build["trigger"]["kind"] == "push"
    assert build["triggered_by"].startswith("user:")


def test_git_notify_takes_paths(server: Server, project: int) -> None:
    job = given_job(server, project, repository=REPOSITORY)
    server.admin.when("PUT", f"/jobs/{job}/configuration", json=CONFIGURATION).then(200)
    server.admin.when("PUT", f"/jobs/{job}/triggers", json={"branches": ["main"], "paths": ["src/**"]}).then(200)
    server.wait_until_projected()
    assert notify(server, project, paths=["README.md"])["queued"] == 0
    assert notify(server, project, paths=["README.md", "src/a.py"])["queued"] == 1
    assert notify(server, project)["queued"] == 1


def test_a_build_that_a_user_starts_has_no_trigger(server: Server, build: int) -> None:
    assert server.admin.fetch(f"/builds/{build}")["trigger"] is None


def test_the_project_is_found_by_its_scm_endpoint(hook: Hook) -> None:
    fields = {"name": "web", "type": "github", "project_id": hook.project, "repo": hook.repository, "token": "t"}
    hook.server.admin.create("/scm", **fields)
    hook.server.wait_until_projected()
    assert hook.send(hook.push(), path="/api/v3/gitops/webhook").then(200)["project_id"] == hook.project
