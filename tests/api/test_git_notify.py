"""`git-notify`: commits that hosts without hooks report, and the hook of git in docs/triggers.md."""

import re
import shutil
from pathlib import Path
from typing import Any

import pytest

from tests.support.builders import CONFIGURATION, REPOSITORY, given_job
from tests.support.documentation import ROOT
from tests.support.git_repository import GitRepository
from tests.support.server import Server

DELETED = "0" * 40
TRIGGERS: dict[str, Any] = {"branches": ["main", "fix/*"], "tags": ["v*"]}


@pytest.fixture
def job(server: Server, project: int) -> int:
    """A job that branches and tags start."""
    job = given_job(server, project, repository=REPOSITORY)
    server.admin.when("PUT", f"/jobs/{job}/configuration", json=CONFIGURATION).then(200)
    server.admin.when("PUT", f"/jobs/{job}/triggers", json=TRIGGERS).then(200)
    server.wait_until_projected()
    return job


def notify(server: Server, project: int, branch: str, commit: str = "c0ffee00", **more: Any) -> Any:
    body = {"project_id": project, "branch": branch, "commit_sha": commit} | more
    return server.admin.when("POST", "/builds/git-notify", json=body)


def built(server: Server, job: int) -> list[tuple[str, str, str]]:
    """Kind of the change, branch and commit of the job's builds, the oldest first."""
    server.wait_until_projected()
    found = server.admin.fetch(f"/builds?job_id={job}")["results"]
    shown = [server.admin.fetch(f"/builds/{build['id']}") for build in reversed(found)]
    return [(build["trigger"]["kind"], build["branch"], build["commit_sha"]) for build in shown]


def test_full_names_are_those_of_branches_and_tags(server: Server, project: int, job: int) -> None:
    for name in ("refs/heads/main", "refs/tags/v9"):
        answer = notify(server, project, name).then(200)
        assert (answer["queued"], answer["detail"]) == (1, "")
    assert built(server, job) == [("push", "main", "c0ffee00"), ("tag", "v9", "c0ffee00")]


@pytest.mark.parametrize("name", ["refs/pull/5/head", "refs/heads/", "refs/heads/refs/heads/main", "refs/tags/-v9"])
def test_other_references_are_refused(server: Server, project: int, name: str) -> None:
    (error,) = notify(server, project, name).then(422)["errors"]
    assert error["field"] == "branch"
    assert "refs/heads/main or refs/tags/v1" in error["message"]


@pytest.mark.parametrize(
    ("name", "commit", "message", "detail"),
    [
        ("refs/heads/main", DELETED, "", "main was deleted, so nothing starts."),
        ("refs/tags/v9", DELETED, "", "v9 was deleted, so nothing starts."),
        ("main", "c0ffee00", "Fix [skip ci]", "The commit message says [skip ci], so nothing starts."),
        ("trial", "c0ffee00", "", "No enabled job of the project has triggers that want a build of branch trial."),
    ],
)
def test_an_answer_says_why_nothing_starts(
    server: Server, project: int, job: int, name: str, commit: str, message: str, detail: str
) -> None:
    answer = notify(server, project, name, commit, message=message).then(200)
    assert answer.pop("change_id")
    assert answer == {
        "queued": 0,
        "build_ids": [],
        "sync_queued": False,
        "waiting": [],
        "refused": [],
        "detail": detail,
    }
    assert built(server, job) == []


def test_no_build_starts_before_the_jobs_follow_a_file_that_the_push_may_have_changed(
    server: Server, project: int, job: int
) -> None:
    repository = GitRepository(Path(server.settings.local_repositories, "notify", "shop.git"), ())
    endpoint = {"type": "git", "name": "Shop", "project_id": project, "repo": str(repository.path), "token": None}
    server.admin.create("/scm", **endpoint)
    for paths in (None, [".testhide.yml", "a.py"]):
        answer = notify(server, project, "main", paths=paths).then(200, queued=0, sync_queued=True)
        assert answer["detail"].endswith(
            f"Builds are queued when the sync of main has ended: see GET /changes/{answer['change_id']}."
        )
    assert built(server, job) == []
    notify(server, project, "main", message="Fix [skip ci]").then(
        200, sync_queued=True, detail="The commit message says [skip ci], so nothing starts."
    )
    notify(server, project, "main", paths=["a.py"]).then(200, queued=1, sync_queued=False, detail="")
    notify(server, project, "fix/a").then(200, queued=1, sync_queued=False)


def test_the_documented_hook_reports_what_is_pushed(server: Server, project: int, job: int, tmp_path: Path) -> None:
    work, bare = GitRepository(tmp_path / "work.git", ()), tmp_path / "bare.git"
    install_documented_hook(server, project, work, bare)
    work.git("tag", "-a", "-m", "Nine", "v9", "main")
    odd = 'fix/"quoted"'
    work.git("branch", odd, "main")
    work.git("push", "--quiet", str(bare), "main", "v9", odd)
    head = work.commits[-1]
    assert sorted(built(server, job)) == [("push", odd, head), ("push", "main", head), ("tag", "v9", head)]
    work.git("push", "--quiet", str(bare), ":v9")
    work.write("a.txt", "a")
    who = ("-c", "user.name=Ada", "-c", "user.email=ada@example.org")
    skipping = work.git(*who, "commit-tree", "main^{tree}", "-p", "main", "-m", 'A "quoted" \\ word\n\n[skip ci]')
    work.git("push", "--quiet", str(bare), f"{skipping}:refs/heads/main")
    assert len(built(server, job)) == 3


def test_the_documented_hook_reports_changed_paths(server: Server, project: int, job: int, tmp_path: Path) -> None:
    triggers = {"branches": ["main"], "paths": ["src/**"]}
    server.admin.when("PUT", f"/jobs/{job}/triggers", json=triggers).then(200)
    work, bare = GitRepository(tmp_path / "work.git", ()), tmp_path / "bare.git"
    work.git("init", "--quiet", "--bare", str(bare))
    work.git("push", "--quiet", str(bare), "main")
    install_documented_hook(server, project, work, bare)

    def push(*paths: str) -> int:
        """Pushes a commit for each path, and returns the number of builds of all pushes."""
        for path in paths:
            work.write(path, "a")
        work.git("push", "--quiet", "--force", str(bare), "main")
        return len(built(server, job))

    assert push("README.md", "docs/naïve café.md") == 0
    assert push("src/naïve café.py", "README") == 1
    assert push('docs/"quoted".md') == 2, "its paths are unknown"
    work.git("update-ref", "refs/heads/main", work.commits[-1])
    assert push("notes/again.md") == 3, "the force push has removed a file in src"
    tree = "".join(f"M 100644 inline docs/{number}\ndata 0\n\n" for number in range(3_001))
    work.commit(tree)
    assert push() == 4, "too many paths"


def install_documented_hook(server: Server, project: int, work: GitRepository, bare: Path) -> None:
    """Installs the hook in the repository `bare`, which is made if it is not there."""
    token = bare.with_suffix(".token")
    token.write_text(server.admin.create("/api-tokens", name="git")["secret"])
    work.git("init", "--quiet", "--bare", str(bare))
    hook = Path(bare, "hooks", "post-receive")
    hook.parent.mkdir(exist_ok=True)
    hook.write_text(documented_hook(f"{server.url}/api/v3/builds/git-notify", project, token))
    hook.chmod(0o755)


def documented_hook(url: str, project: int, token: Path) -> str:
    assert shutil.which("curl"), "the hook needs curl"
    page = Path(ROOT, "docs/triggers.md").read_text()
    found: list[str] = re.findall(r"^```sh\n(#!/bin/sh\n.*?)^```", page, re.DOTALL | re.MULTILINE)
    (script,) = found
    for pattern, value in ((r"^url=.*", f"url={url}"), (r"^project=.*", f"project={project}")):
        script = re.sub(pattern, value, script, count=1, flags=re.MULTILINE)
    return script.replace("/etc/testhide/notify-token", str(token))
