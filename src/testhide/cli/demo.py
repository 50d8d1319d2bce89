"""`./dev demo`: a real test suite through the whole server, from nothing.

Starts a stack on a folder of its own, makes project, job and node over the REST API, commits examples/shop to a git
repository, queues three builds, shows their log as it comes, then the report, the flaky suspects and the events of
one build. Everything that it claims it has compared; what differs ends it with 1.
"""

from __future__ import annotations

import contextlib
import hashlib
import json
import os
import re
import secrets
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import httpx

EXAMPLE = Path(__file__).resolve().parents[3] / "examples" / "shop"
BUILDS = 3
STARTS_S = 60
ADMIN = "admin@example.com"
OUTCOMES = ("passed", "failed", "skipped")


class Failed(Exception):
    """The demo saw something that should not be; the message says what."""


def main(exit_after: bool) -> int:
    if not EXAMPLE.is_dir():
        print("testhide: the demo runs from a checkout: examples/shop is missing.", file=sys.stderr)
        return 2
    if shutil.which("git") is None:
        print("testhide: the demo needs git: install it first.", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory(prefix="testhide-demo-") as folder, contextlib.ExitStack() as stack:
        place = Path(folder)
        place.chmod(0o711)  # as root the embedded database runs as another user, who must get in
        try:
            with stack:
                demo = stack.enter_context(started(place))
                demo.run()
                if not exit_after:
                    print("\nThe server stays up until Ctrl-C.")
                    with contextlib.suppress(KeyboardInterrupt):
                        demo.server.wait()
        except Failed as error:
            print(f"\ntesthide: the demo failed: {error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            return 130
    return 0


@contextlib.contextmanager
def started(place: Path) -> Iterator[Demo]:
    """A running stack without its own agent, signed in."""
    step("Starting PostgreSQL, Valkey and the server")
    begun = time.monotonic()
    password, port = secrets.token_urlsafe(9), free_port()
    environ = {
        **{name: value for name, value in os.environ.items() if not name.startswith("TESTHIDE_")},
        "TESTHIDE_ADMIN_EMAIL": ADMIN,
        "TESTHIDE_ADMIN_PASSWORD": password,
    }
    command = [
        sys.executable,
        "-P",
        "-m",
        "testhide",
        "up",
        "--no-agent",
        "--port",
        str(port),
        "--data",
        str(place / "data"),
    ]
    with running(command, environ, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        for line in server.stdout:
            if line.startswith(b"ready "):
                break
        else:
            raise Failed("the server did not start; its own message is above")
        url = line.decode().split()[1]
        say(f"ready at {url} after {time.monotonic() - begun:.1f} s")
        with httpx.Client(base_url=f"{url}/api/v3", timeout=30) as http:
            demo = Demo(place, server, http, url, password)
            demo.sign_in()
            yield demo


@contextlib.contextmanager
def running(command: list[str], environ: dict[str, str], *, stdout: int) -> Iterator[subprocess.Popen[bytes]]:
    # A session of its own: Ctrl-C reaches this process, which then ends the others in order.
    process = subprocess.Popen(command, env=environ, start_new_session=True, stdout=stdout)
    try:
        yield process
    finally:
        process.terminate()
        try:
            process.wait(10)
        except subprocess.TimeoutExpired:
            process.kill()
            process.wait()


class Demo:
    def __init__(
        self, place: Path, server: subprocess.Popen[bytes], http: httpx.Client, url: str, password: str
    ) -> None:
        self.place = place
        self.server = server
        self.http = http
        self.url = url
        self.password = password

    def call(self, method: str, path: str, **options: Any) -> Any:
        answer = self.http.request(method, path, **options)
        if not answer.is_success:
            raise Failed(f"{method} {path} answered {answer.status_code}: {answer.text}")
        return answer.json() if answer.content else None

    def sign_in(self) -> None:
        answer = self.call("POST", "/authenticate", json={"username": ADMIN, "password": self.password})
        self.http.headers["Authorization"] = f"Bearer {answer['token']}"

    def run(self) -> None:
        step("Committing examples/shop to a git repository")
        repository, commit = self.commit()
        say(f"{repository} at {commit[:12]}")
        step("Creating project, node and job")
        job, token_file = self.prepare(repository)
        agent = [sys.executable, "-P", "-m", "agent", "--server", self.url, "--token-file", str(token_file)]
        agent += ["--workdir", str(self.place / "agent"), "--trust-builds", "--allow-local-repositories"]
        with running(agent, dict(os.environ), stdout=subprocess.DEVNULL):
            builds = [self.build(job, commit) for _ in range(BUILDS)]
        self.report(builds[-1])
        self.suspects(builds)
        self.events(builds[-1])
        token = self.call("POST", "/api-tokens", json={"name": "demo"})["secret"]
        step("Go on")
        say(f"curl -H 'Authorization: Bearer {token}' {self.url}/api/v3/builds/{builds[-1]}")
        say(f"API description: {self.url}/api/v3/openapi.json    sign in as {ADMIN}, password {self.password}")

    def commit(self) -> tuple[Path, str]:
        repository = self.place / "shop"
        shutil.copytree(EXAMPLE, repository, ignore=shutil.ignore_patterns("__pycache__", ".pytest_cache"))
        git = ["git", "-C", str(repository), "-c", "user.name=demo", "-c", "user.email=demo@example.com"]
        subprocess.run([*git, "init", "--quiet", "--initial-branch=main"], check=True)
        subprocess.run([*git, "add", "."], check=True)
        subprocess.run([*git, "commit", "--quiet", "--message", "A shop"], check=True)
        found = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
        return repository, found.stdout.strip()

    def prepare(self, repository: Path) -> tuple[int, Path]:
        project = self.call("POST", "/projects", json={"name": "Shop", "description": "The demo's project"})["id"]
        pool = self.call("POST", "/node-pools", json={"name": "demo", "project_id": project})["id"]
        node = self.call("POST", "/nodes", json={"name": "demo-node", "pool_id": pool, "tags": ["linux"]})
        token_file = self.place / "agent-token"
        token_file.touch(mode=0o600)
        token_file.write_text(node["agent_token"])
        job = self.call(
            "POST",
            "/jobs",
            json={"name": "Tests", "project_id": project, "node_pool_id": pool, "repository": str(repository)},
        )["id"]
        python = sys.executable
        configuration = {
            "setup": [f"{python} --version"],
            "command": (
                f"{python} -P -m pytest -v -p no:cacheprovider --junitxml=report.xml; result=$?;"
                " sha256sum report.xml; exit $result"
            ),
            "env": {"PYTHONPATH": ".", "PYTEST_DISABLE_PLUGIN_AUTOLOAD": "1"},
            "artifacts": ["report.xml"],
        }
        self.call("PUT", f"/jobs/{job}/configuration", json=configuration)
        say(f"project {project}, node {node['id']}, job {job}")
        return job, token_file

    def build(self, job: int, commit: str) -> int:
        started_at = time.monotonic()
        build = self.call("POST", "/builds/start", json={"job_id": job, "commit_sha": commit})["id"]
        step(f"Build {build}, live from /api/v3/builds/{build}/stream")
        log = [message["data"] for message in self.stream(build) if message["type"] == "log"]
        found = self.call("GET", f"/builds/{build}")
        report = self.call("GET", f"/report/{build}")
        said = self.compare_counts(log, report)
        self.compare_artifact(build, log)
        if report["failed"] and found["status"] != "failed":
            raise Failed(f"build {build} is {found['status']} although {report['failed']} tests failed")
        if found["commit_sha"] != commit:
            raise Failed(f"build {build} ran {found['commit_sha']}, not {commit}")
        took = time.monotonic() - started_at
        say(
            f"{found['status']} ({found['reason'] or 'all well'}) in {took:.1f} s: {said}; report and artifact compared"
        )
        return int(build)

    def stream(self, build: int) -> Iterator[dict[str, str]]:
        with self.http.stream("GET", f"/builds/{build}/stream", timeout=120) as answer:
            for line in answer.iter_lines():
                if line.startswith("data: "):
                    message = json.loads(line.removeprefix("data: "))
                    if message["type"] == "log":
                        print(f"    {message['data']}", flush=True)
                    yield message

    def compare_counts(self, log: list[str], report: dict[str, Any]) -> str:
        """pytest's own last line against the server's report."""
        last = next((line for line in reversed(log) if re.search(r"=+ .*(passed|failed).* in [\d.]+s", line)), "")
        counted = {name: int(number) for number, name in re.findall(r"(\d+) (passed|failed|skipped)", last)}
        for outcome in OUTCOMES:
            if counted.get(outcome, 0) != report[outcome]:
                raise Failed(f"pytest says {last!r}, the report {report}")
        return ", ".join(f"{report[outcome]} {outcome}" for outcome in OUTCOMES)

    def compare_artifact(self, build: int, log: list[str]) -> None:
        """What the build's own sha256sum said against what can be downloaded."""
        said = next((found[1] for line in log if (found := re.search(r"([0-9a-f]{64})  report\.xml", line))), None)
        artifact = next(
            (
                item
                for item in self.call("GET", "/artifacts", params={"build_id": build})
                if item["name"] == "report.xml"
            ),
            None,
        )
        if artifact is None or said is None:
            raise Failed(f"build {build} has no report.xml among its artifacts")
        content = self.http.get(f"/artifacts/{artifact['id']}/download").content
        if hashlib.sha256(content).hexdigest() != said:
            raise Failed(f"artifact {artifact['id']} is not the file that the build wrote")

    def report(self, build: int) -> None:
        step(f"Failures of build {build}")
        for test in self.call("GET", "/tests", params={"build_id": build, "status": "failed"})["results"]:
            say(f"{test['node_id']}: {test['message'].splitlines()[0] if test['message'] else ''}")

    def suspects(self, builds: list[int]) -> None:
        step("Flaky suspects: passed and failed on the same commit")
        found: dict[str, str] = {}
        for build in builds:
            for test in self.call("GET", "/tests", params={"build_id": build, "status": "failed"})["results"]:
                history = self.call("GET", f"/tests/{test['id']}/history")["history"]
                if {"passed", "failed"} <= {run["status"] for run in history}:
                    found[test["node_id"]] = " ".join(run["status"] for run in reversed(history))
        if not found:
            raise Failed("the flaky test of examples/shop was not found")
        for node_id, runs in found.items():
            say(f"{node_id}: {runs}")

    def events(self, build: int) -> None:
        step(f"The events of build {build}")
        from testhide.cli.dsn import connection_strings

        database_url, _ = connection_strings(self.place / "data", {})
        names = []
        for position, name in event_names(database_url, build):
            say(f"{position:>5}  {name}")
            names.append(name)
        expected = ["build.queued", "build.assigned", "build.started", "results.recorded", "build.finished"]
        if [name for name in names if name in expected] != expected:
            raise Failed(f"the events of build {build} are {names}, expected {expected} in this order")


def event_names(database_url: str, build: int) -> list[tuple[int, str]]:
    """Position and name of a build's events, its results among them."""
    import psycopg

    with psycopg.connect(database_url) as connection:
        return connection.execute(
            "SELECT notification_id, topic FROM stored_events WHERE originator_id = ANY (%s) ORDER BY notification_id",
            ([f"build-{build}", f"results-{build}"],),
        ).fetchall()


def free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def step(title: str) -> None:
    print(f"\n==> {title}", flush=True)


def say(text: str) -> None:
    print(f"    {text}", flush=True)
