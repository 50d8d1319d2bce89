"""`testhide demo`: runs a real test suite through a whole server, from `git push` to the analysis of its results.

Starts a stack in a temporary folder. Over the REST API, makes a project with a node and a bare git repository. Pushes
examples/shop with a `.testhide.yml`: the repository's hook reports the push, and the server makes the job that the file
describes and builds the commit. Starts two more builds of the commit.

Prints the builds' logs live, and afterwards the report, the flaky tests (those that have passed and failed on the
commit) and the events of one build. Compares the counts with pytest's summary, the artifact with the checksum in the
log, and the events with the expected order. A difference ends the demo with exit code 1.
"""

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
from typing import Annotated, Any
from urllib.error import HTTPError
from urllib.parse import urlencode
from urllib.request import Request, urlopen

import psycopg
from cyclopts import Parameter

from testhide.stack.offline import settings_of_running_stack

CHECKOUT = Path(__file__).resolve().parents[3]
EXAMPLE = CHECKOUT / "examples" / "shop"
HOOK_PAGE = CHECKOUT / "docs" / "triggers.md"
"""Page of the docs with the hook that reports pushes to a bare repository, as a block of `sh`."""
PIPELINES = """\
jobs:
  Tests:
    setup: [{python} --version]
    command: "{python} -P -m pytest -v --junitxml=report.xml; result=$?; sha256sum report.xml; exit $result"
    env: {{PYTHONPATH: ., PYTEST_ADDOPTS: -p no:cacheprovider, PYTEST_DISABLE_PLUGIN_AUTOLOAD: 1}}
    artifacts: [report.xml]
    pool: demo
    triggers: {{branches: [main]}}
"""
BUILDS = 3
"""Number of builds of the commit: enough for the flaky test of the example to pass and to fail."""
REQUEST_TIMEOUT_S = 120
"""Longest pause within an answer, in seconds. Only a build's live log may be silent for long."""
PUSH_TIMEOUT_S = 30
"""Longest time from a push to its first build, in seconds."""
POLL_INTERVAL_S = 0.1
ADMIN = "admin@example.com"
OUTCOMES = ("passed", "failed", "skipped")


class DemoFailed(Exception):
    """Raised if the server does not do what the demo expects. The message says what is wrong."""


def demo(*, exit: Annotated[bool, Parameter(name="--exit", negative=())] = False) -> int:
    """Start a stack on a folder of its own, run an example through it and show what it found.

    Parameters
    ----------
    exit
        Stop everything afterwards.
    """
    if not EXAMPLE.is_dir():
        print("testhide: the demo runs from a checkout: examples/shop is missing.", file=sys.stderr)
        return 2
    for program in ("git", "curl"):
        if shutil.which(program) is None:
            print(f"testhide: the demo needs {program}: install it first.", file=sys.stderr)
            return 2
    with tempfile.TemporaryDirectory(prefix="testhide-demo-") as name:
        folder = Path(name)
        folder.chmod(0o711)  # as root the embedded database runs as another user, who must get in
        try:
            with _running_stack(folder) as running:
                running.run()
                if not exit:
                    print("\nThe server stays up until Ctrl-C.")
                    with contextlib.suppress(KeyboardInterrupt):
                        running.server.wait()
        except DemoFailed as error:
            print(f"\ntesthide: the demo failed: {error}", file=sys.stderr)
            return 1
        except KeyboardInterrupt:
            return 130
    return 0


@contextlib.contextmanager
def _running_stack(folder: Path) -> "Iterator[Demo]":
    """Start a stack without a local agent, and sign in. Stop the stack when the block ends."""
    print_step("Starting PostgreSQL, Valkey and the server")
    begun = time.monotonic()
    password = secrets.token_urlsafe(9)
    environ = {
        **{name: value for name, value in os.environ.items() if not name.startswith("TESTHIDE_")},
        "TESTHIDE_ADMIN_EMAIL": ADMIN,
        "TESTHIDE_ADMIN_PASSWORD": password,
        "TESTHIDE_LOCAL_REPOSITORIES": str(folder),
    }
    options = ["--no-agent", "--port", str(find_free_port()), "--data", str(folder / "data")]
    command = [sys.executable, "-P", "-m", "testhide", "up", *options]
    with _running_process(command, environ, stdout=subprocess.PIPE) as server:
        assert server.stdout is not None
        for line in server.stdout:
            if line.startswith(b"ready "):
                break
        else:
            raise DemoFailed("the server did not start; its own message is above")
        url = line.decode().split()[1]
        print_detail(f"ready at {url} after {time.monotonic() - begun:.1f} s")
        yield Demo(folder, server, url, password)


@contextlib.contextmanager
def _running_process(command: list[str], environ: dict[str, str], *, stdout: int) -> Iterator[subprocess.Popen[bytes]]:
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
    def __init__(self, folder: Path, server: subprocess.Popen[bytes], url: str, password: str) -> None:
        self.folder = folder
        self.server = server
        self.url = url
        self.password = password
        self._token = ""
        self._token = self.call("POST", "/authenticate", {"username": ADMIN, "password": password})["token"]

    @contextlib.contextmanager
    def request(self, method: str, path: str, body: object = None) -> Iterator[Any]:
        """Send a request and yield its response. Raises DemoFailed for an error response."""
        headers = {"Content-Type": "application/json"}
        if self._token:
            headers["Authorization"] = f"Bearer {self._token}"
        data = None if body is None else json.dumps(body).encode()
        request = Request(f"{self.url}/api/v3{path}", data, headers, method=method)  # noqa: S310 (http, to ourselves)
        try:
            with urlopen(request, timeout=REQUEST_TIMEOUT_S) as response:  # noqa: S310
                yield response
        except HTTPError as error:
            raise DemoFailed(f"{method} {path} answered {error.code}: {error.read().decode()}") from None

    def call(self, method: str, path: str, body: object = None, **query: object) -> Any:
        """Send a request and return its response, decoded from JSON, or None if it is empty. Raises DemoFailed for an
        error response.
        """
        with self.request(method, f"{path}?{urlencode(query)}" if query else path, body) as response:
            content = response.read()
        return json.loads(content) if content else None

    def run(self) -> None:
        print_step("Creating a project with a node and a git repository")
        project, token_file = self.prepare()
        print_step("Pushing examples/shop with this .testhide.yml")
        commit = self.push()
        agent = [sys.executable, "-P", "-m", "agent", "--server", self.url, "--token-file", str(token_file)]
        agent += ["--workdir", str(self.folder / "agent"), "--trust-builds", "--allow-local-repositories"]
        with _running_process(agent, dict(os.environ), stdout=subprocess.DEVNULL):
            first = self.find_pushed_build(project, commit)
            builds = [first["id"]]
            self.follow(first["id"], commit, "started by the push")
            for _ in range(BUILDS - 1):
                start = {"job_id": first["job_id"], "commit_sha": commit}
                builds.append(self.call("POST", "/builds/start", start)["id"])
                self.follow(builds[-1], commit, "started by hand")
        self.print_failures(builds[-1])
        self.print_flaky_tests(builds)
        self.print_events(builds[-1])
        token = self.call("POST", "/api-tokens", {"name": "demo"})["secret"]
        print_step("Go on")
        print_detail(f"curl -H 'Authorization: Bearer {token}' {self.url}/api/v3/builds/{builds[-1]}")
        print_detail(f"API description: {self.url}/api/v3/openapi.json    sign in as {ADMIN}, password {self.password}")

    @property
    def repository(self) -> Path:
        return self.folder / "shop.git"

    def prepare(self) -> tuple[int, Path]:
        """Create everything that a push needs. Returns the id of the project, and the file with the agent's token."""
        project = self.call("POST", "/projects", {"name": "Shop", "description": "The demo's project"})["id"]
        pool = self.call("POST", "/node-pools", {"name": "demo", "project_id": project})["id"]
        node = self.call("POST", "/nodes", {"name": "demo-node", "pool_id": pool, "tags": ["linux"]})
        token_file = self.write_secret("agent-token", node["agent_token"])
        subprocess.run(["git", "init", "--quiet", "--bare", "--initial-branch=main", self.repository], check=True)
        self.install_hook(project)
        endpoint = {"type": "git", "name": "Shop", "project_id": project, "repo": str(self.repository), "token": None}
        self.call("POST", "/scm", endpoint)
        print_detail(f"project {project}, node {node['id']}, {self.repository} with the hook of docs/triggers.md")
        return project, token_file

    def install_hook(self, project: int) -> None:
        """Install the hook of docs/triggers.md, which reports pushes to the repository."""
        found = re.search(r"^```sh\n(#!.*?)^```", HOOK_PAGE.read_text(), re.DOTALL | re.MULTILINE)
        if found is None:
            raise DemoFailed(f"{HOOK_PAGE} shows no hook")
        token_file = self.write_secret("notify-token", self.call("POST", "/api-tokens", {"name": "hook"})["secret"])
        script = found[1].replace("https://testhide.example.com", self.url)
        script = script.replace("project=12", f"project={project}").replace(
            "/etc/testhide/notify-token", str(token_file)
        )
        hook = self.repository / "hooks" / "post-receive"
        hook.parent.mkdir(exist_ok=True)
        hook.write_text(script)
        hook.chmod(0o755)

    def write_secret(self, name: str, text: str) -> Path:
        file = self.folder / name
        file.touch(mode=0o600)
        file.write_text(text)
        return file

    def push(self) -> str:
        """Commit the example with its pipelines file, and push it. Returns the commit's id."""
        work = self.folder / "shop"
        shutil.copytree(EXAMPLE, work, ignore=shutil.ignore_patterns("__pycache__", ".pytest_cache"))
        pipelines = PIPELINES.format(python=sys.executable)
        (work / ".testhide.yml").write_text(pipelines)
        print_detail(pipelines.rstrip().replace("\n", "\n    "))
        git = ["git", "-C", str(work), "-c", "user.name=demo", "-c", "user.email=demo@example.com"]
        subprocess.run([*git, "init", "--quiet", "--initial-branch=main"], check=True)
        subprocess.run([*git, "add", "."], check=True)
        subprocess.run([*git, "commit", "--quiet", "--message", "A shop"], check=True)
        subprocess.run([*git, "push", "--quiet", self.repository, "main"], check=True, stderr=subprocess.DEVNULL)
        found = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
        print_detail(f"pushed {found.stdout[:12]} to main")
        return found.stdout.strip()

    def find_pushed_build(self, project: int, commit: str) -> dict[str, Any]:
        """Wait for the build that the push starts, and return it. Raises DemoFailed if it does not start in time."""
        deadline = time.monotonic() + PUSH_TIMEOUT_S
        while not (found := self.call("GET", "/builds", commit_sha=commit)["results"]):
            if time.monotonic() > deadline:
                status = self.call("GET", "/gitops/status", project_id=project)
                raise DemoFailed(f"the push started no build: {status}")
            time.sleep(POLL_INTERVAL_S)
        return dict(found[0])

    def follow(self, build: int, commit: str, how: str) -> None:
        """Print a build's log live. Raises DemoFailed if its report or artifact does not match the log, its verdict
        does not match the report, or it ran another commit.
        """
        started_at = time.monotonic()
        print_step(f"Build {build}, {how}, live from /api/v3/builds/{build}/stream")
        log = [message["data"] for message in self.stream(build) if message["type"] == "log"]
        found = self.call("GET", f"/builds/{build}")
        report = self.call("GET", f"/report/{build}")
        counts = self.compare_counts(log, report)
        self.compare_artifact(build, log)
        if report["failed"] and found["status"] != "failed":
            raise DemoFailed(f"build {build} is {found['status']} although {report['failed']} tests failed")
        if found["commit_sha"] != commit:
            raise DemoFailed(f"build {build} ran {found['commit_sha']}, not {commit}")
        took = time.monotonic() - started_at
        verdict = f"{found['status']} ({found['reason'] or 'all well'})"
        print_detail(f"{verdict} in {took:.1f} s: {counts}; report and artifact as expected")

    def stream(self, build: int) -> Iterator[dict[str, str]]:
        """Print a build's log lines as they come. Yields every message of the stream until the build ends."""
        with self.request("GET", f"/builds/{build}/stream") as response:
            for line in response:
                if line.startswith(b"data: "):
                    message = json.loads(line.removeprefix(b"data: "))
                    if message["type"] == "log":
                        print(f"    {message['data']}", flush=True)
                    yield message

    def compare_counts(self, log: list[str], report: dict[str, Any]) -> str:
        """Return the report's counts as text. Raises DemoFailed if pytest's summary in the log has other counts."""
        last = next((line for line in reversed(log) if re.search(r"=+ .*(passed|failed).* in [\d.]+s", line)), "")
        counted = {name: int(number) for number, name in re.findall(r"(\d+) (passed|failed|skipped)", last)}
        for outcome in OUTCOMES:
            if counted.get(outcome, 0) != report[outcome]:
                raise DemoFailed(f"pytest says {last!r}, the report {report}")
        return ", ".join(f"{report[outcome]} {outcome}" for outcome in OUTCOMES)

    def compare_artifact(self, build: int, log: list[str]) -> None:
        """Download the artifact. Raises DemoFailed if its checksum is not the one in the log."""
        checksum = next((found[1] for line in log if (found := re.search(r"([0-9a-f]{64})  report\.xml", line))), None)
        artifacts = {item["name"]: item["id"] for item in self.call("GET", "/artifacts", build_id=build)}
        if "report.xml" not in artifacts or checksum is None:
            raise DemoFailed(f"build {build} has no report.xml among its artifacts")
        with self.request("GET", f"/artifacts/{artifacts['report.xml']}/download") as response:
            content = response.read()
        if hashlib.sha256(content).hexdigest() != checksum:
            raise DemoFailed(f"artifact {artifacts['report.xml']} is not the file that the build wrote")

    def print_failures(self, build: int) -> None:
        print_step(f"Failures of build {build}")
        for test in self.call("GET", "/tests", build_id=build, status="failed")["results"]:
            print_detail(f"{test['node_id']}: {test['message'].splitlines()[0] if test['message'] else ''}")

    def print_flaky_tests(self, builds: list[int]) -> None:
        print_step("Flaky tests: passed and failed on the same commit")
        found: dict[str, str] = {}
        for build in builds:
            for test in self.call("GET", "/tests", build_id=build, status="failed")["results"]:
                history = self.call("GET", f"/tests/{test['id']}/history")["history"]
                if {"passed", "failed"} <= {run["status"] for run in history}:
                    found[test["node_id"]] = " ".join(run["status"] for run in reversed(history))
        if not found:
            raise DemoFailed("the flaky test of examples/shop was not found")
        for node_id, runs in found.items():
            print_detail(f"{node_id}: {runs}")

    def print_events(self, build: int) -> None:
        print_step(f"The events of build {build}")
        database_url = settings_of_running_stack(self.folder / "data", {}).database_url
        query = "SELECT notification_id, topic FROM stored_events WHERE originator_id = ANY (%s) ORDER BY 1"
        with psycopg.connect(database_url) as connection:
            events = connection.execute(query, ([f"build-{build}", f"results-{build}"],)).fetchall()
        for position, name in events:
            print_detail(f"{position:>5}  {name}")
        names = [name for _, name in events]
        expected = ["build.queued", "build.assigned", "build.started", "results.recorded", "build.finished"]
        if [name for name in names if name in expected] != expected:
            raise DemoFailed(f"the events of build {build} are {names}, expected {expected} in this order")


def find_free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return int(probe.getsockname()[1])


def print_step(title: str) -> None:
    print(f"\n==> {title}", flush=True)


def print_detail(text: str) -> None:
    print(f"    {text}", flush=True)
