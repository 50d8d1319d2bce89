"""The steps of `./dev demo` by a generated client: a push, builds of an agent, their results, a flaky test, events."""

import contextlib
import hashlib
import json
import shutil
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from testhide.cli.demo import BUILDS, PIPELINES, PUSH_TIMEOUT_S
from testhide.engines import Engines
from tests.real.description.python_client import PythonClient
from tests.support.documentation import ROOT
from tests.support.server import ADMIN, Server, server_on_new_database

FLAKY = "tests/test_payment.py::test_charges_over_the_network"


@pytest.fixture
def worked(engines: Engines, tmp_path: Path) -> Iterator[Server]:
    with server_on_new_database(engines, tmp_path, "serve", "project", "dispatch", "work") as server:
        yield server


@pytest.mark.usefixtures("package")
def test_a_generated_client_runs_the_demo(worked: Server, tmp_path: Path) -> None:
    email, password = ADMIN
    with PythonClient(worked.url) as anonymous:
        login = anonymous.models.Login(username=email, password=password)
        token = anonymous.call("authentication", "authenticate", body=login).token
    with PythonClient(worked.url, token) as client:
        demo(client, worked, tmp_path)


def push(work: Path, repository: Path) -> str:
    """Commits the example with its pipelines file, and pushes it to a new repository. Returns the commit's id."""
    shutil.copytree(ROOT / "examples" / "shop", work, ignore=shutil.ignore_patterns("__pycache__", ".pytest_cache"))
    (work / ".testhide.yml").write_text(PIPELINES.format(python=sys.executable))
    subprocess.run(["git", "init", "--quiet", "--bare", "--initial-branch=main", repository], check=True)
    git = ["git", "-C", str(work), "-c", "user.name=demo", "-c", "user.email=demo@example.com"]
    subprocess.run([*git, "init", "--quiet", "--initial-branch=main"], check=True)
    subprocess.run([*git, "add", "."], check=True)
    subprocess.run([*git, "commit", "--quiet", "--message", "A shop"], check=True)
    subprocess.run([*git, "push", "--quiet", repository, "main"], check=True)
    return subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True).stdout.strip()


@contextlib.contextmanager
def running_agent(server: Server, token: str, folder: Path) -> Iterator[None]:
    token_file = folder / "token"
    token_file.touch(mode=0o600)
    token_file.write_text(token)
    agent = [sys.executable, "-P", "-m", "agent", "--server", server.url, "--token-file", str(token_file)]
    agent += ["--workdir", str(folder / "agent"), "--trust-builds", "--allow-local-repositories"]
    with subprocess.Popen(agent) as process:
        try:
            yield
        finally:
            process.terminate()
            assert process.wait(30) == 0


def find_pushed_build(client: PythonClient, commit: str) -> Any:
    deadline = time.monotonic() + PUSH_TIMEOUT_S
    while not (found := client.call("builds", "list_builds", commit_sha=commit).results):
        assert time.monotonic() < deadline, "the push starts a build"
        time.sleep(0.05)  # between two looks
    return found[0]


def follow(client: PythonClient, build_id: int, commit: str) -> str:
    """Reads the log of a build until it ends, and compares its report and its artifact with it. Returns the status of
    the flaky test.
    """
    lines = client.call("builds", "stream_build", build_id).splitlines()
    messages = [json.loads(line.removeprefix("data: ")) for line in lines if line]
    log = "\n".join(message["data"] for message in messages if message["type"] == "log")
    build = client.call("builds", "get_build", build_id)
    report = client.call("reports_tests", "get_report", build_id)
    assert (build.commit_sha, build.status.value, build.reason.value) == (commit, "failed", "tests_failed"), log
    assert f"{report.failed} failed, {report.passed} passed, {report.skipped} skipped" in log
    (artifact,) = client.call("artifacts", "list_artifacts", build_id=build_id)
    content = client.call("artifacts", "download_artifact", artifact.id).payload.read()
    assert f"{hashlib.sha256(content).hexdigest()}  report.xml" in log
    results = client.call("reports_tests", "list_tests", build_id=build_id, limit=100).results
    (status,) = {result.status.value for result in results if result.node_id == FLAKY}
    return str(status)


def demo(client: PythonClient, server: Server, folder: Path) -> None:
    models = client.models
    repository = Path(server.settings.local_repositories) / "shop.git"
    commit = push(folder / "shop", repository)
    project = client.call("projects", "create_project", body=models.NewProject(name="Shop"))
    pool = client.call("node_pools", "create_pool", body=models.NewPool(name="demo", project_id=project.id))
    node = client.call("nodes_ci_agents", "register_node", body=models.NewNode(name="demo-node", pool_id=pool.id))
    endpoint = models.NewScmEndpoint(
        type_=models.NewScmEndpointType.GIT, name="Shop", project_id=project.id, repo=str(repository), token=None
    )
    client.call("scm_endpoints", "create_scm_endpoint", body=endpoint)
    change = models.NewCommit(project_id=project.id, branch="main", commit_sha=commit)
    client.call("triggers", "notify_commit", body=change)

    with running_agent(server, node.agent_token, folder):
        first = find_pushed_build(client, commit)
        last_id = first.id
        statuses = [follow(client, last_id, commit)]
        for _ in range(BUILDS - 1):
            body = models.NewBuild(job_id=first.job_id, commit_sha=commit)
            last_id = client.call("builds", "start_build", body=body).id
            statuses.append(follow(client, last_id, commit))
    assert {"passed", "failed"} == set(statuses), "the flaky test of the example"
    results = client.call("reports_tests", "list_tests", build_id=last_id, limit=100).results
    (suspect,) = (result for result in results if result.node_id == FLAKY)
    history = client.call("reports_tests", "get_test_history", suspect.id).history
    assert [run.status.value for run in history] == statuses[::-1]
    events = client.call("audit", "list_stream_events", f"build-{last_id}")
    # A worker explains a failed build soon after its end.
    types = [event.type_ for event in events if event.type_ != "build.explained"]
    assert types[:3] == ["build.queued", "build.assigned", "build.started"]
    assert types[-1] == "build.finished"
