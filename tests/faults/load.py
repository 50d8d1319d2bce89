"""Load during the faults: builds with a known outcome, users who comment on, read and stop them, a webhook receiver."""

import asyncio
import json
import random
import sys
from collections import defaultdict
from dataclasses import asdict, dataclass, field

from aiohttp import web

from tests.faults.client import ANSWER_TIMEOUT_S, RETRY_DELAY_S, Answer, File, RetryingClient
from tests.faults.readers import BuildReader, read_stream

PLAN = "FAULTS_PLAN"
SCRIPT = """
import json, os, subprocess, sys, time
plan = json.loads(os.environ["FAULTS_PLAN"])
token, lines = plan["token"], plan["lines"]
if plan["leaves_process"]:
    subprocess.Popen(["sleep", "600"], start_new_session=True)
for number in range(1, lines + 1):
    print(f"line {number} of {lines} of {token}", flush=True)
    time.sleep(plan["pause_s"])
with open("proof.bin", "wb") as proof:
    proof.write((token.encode() * (plan["proof_bytes"] // len(token) + 1))[: plan["proof_bytes"]])
with open("junittests.xml", "w") as report:
    report.write(plan["report"])
print(f"end of {token}", flush=True)
sys.exit(plan["exit_code"])
"""


@dataclass(frozen=True)
class Plan:
    """Steps of a build, and its outcome if no fault prevents it."""

    token: str
    lines: int
    pause_s: float
    passed: int
    failed: int
    exit_code: int
    proof_bytes: int
    """Size of the artifact `proof.bin`."""
    leaves_process: bool
    """Whether it starts a process that outlives it."""
    external: bool
    """Whether its pipeline runs outside the server's agents. It has no log then."""

    @property
    def verdict(self) -> tuple[str, int | None]:
        """Expected status and exit code."""
        return "failed" if self.failed or self.exit_code else "passed", None if self.external else self.exit_code

    @property
    def duration_s(self) -> float:
        return self.lines * self.pause_s

    @property
    def output(self) -> list[str]:
        if self.external:
            return []
        lines = [f"line {number} of {self.lines} of {self.token}" for number in range(1, self.lines + 1)]
        return [*lines, f"end of {self.token}"]

    @property
    def proof(self) -> bytes:
        return (self.token.encode() * (self.proof_bytes // len(self.token) + 1))[: self.proof_bytes]

    @property
    def report(self) -> str:
        cases = [f'<testcase classname="t" name="p{n}" time="0.01"/>' for n in range(self.passed)]
        cases += [f'<testcase classname="t" name="f{n}"><failure message="no"/></testcase>' for n in range(self.failed)]
        return f'<testsuite name="s">{"".join(cases)}</testsuite>'

    @property
    def env(self) -> dict[str, str]:
        return {PLAN: json.dumps(asdict(self) | {"report": self.report})}


def draw_plan(rng: random.Random, token: str) -> Plan:
    """Draws a plan that takes 0.3 to 3 s."""
    failed = rng.choice((0, 0, 1, 3))
    lines = rng.choice((5, 40, 200, 1_500))
    return Plan(
        token=token,
        lines=lines,
        pause_s=rng.choice((0.3, 1.5, 3.0)) / lines,
        passed=rng.randrange(1, 30),
        failed=failed,
        exit_code=1 if failed else rng.choice((0, 0, 0, 3)),
        proof_bytes=rng.choice((10, 5_000, 700_000)),
        leaves_process=rng.random() < 0.2,
        external=rng.random() < 0.25,
    )


def make_job_command() -> str:
    """Returns the command of a job whose builds carry out the plan in their environment."""
    return f"exec {sys.executable} -I - <<'END'{SCRIPT}END"


@dataclass
class Order:
    """One build that users start, comment on, read and perhaps stop, with the answers that they got."""

    plan: Plan
    comment_count: int
    reader_count: int
    stop_after_s: float | None
    start_answer: Answer | None = None
    stop_answer: Answer | None = None
    accepted_comments: list[str] = field(default_factory=list)
    readers: list[BuildReader] = field(default_factory=list)

    async def carry_out(self, client: RetryingClient, job: int, rng: random.Random) -> None:
        """Starts the build and does the rest until all its readers have received its end. Raises TimeoutError."""
        body = {"job_id": job, "branch": self.plan.token}
        body |= {"external": True} if self.plan.external else {"env": self.plan.env}
        self.start_answer = await client.call("POST", "/api/v3/builds/start", body)
        if self.start_answer.status in (200, 201):
            build = int(self.start_answer.body["id"])
        else:
            assert self.start_answer.carried_out, self.start_answer
            build = await self._find_build(client)
        self.readers = [BuildReader(build) for _ in range(self.reader_count)]
        async with asyncio.TaskGroup() as users:
            for reader in self.readers:
                users.create_task(read_stream(client, reader, random.Random(rng.random())))
            users.create_task(self._comment(client, build))
            users.create_task(self._stop(client, build))
            if self.plan.external:
                users.create_task(self._report(client, build))

    async def _find_build(self, client: RetryingClient) -> int:
        """Returns the id of the build if the answer to its start was lost."""
        async with asyncio.timeout(ANSWER_TIMEOUT_S):
            while True:
                answer = await client.call("GET", f"/api/v3/builds?branch={self.plan.token}")
                if answer.body["results"]:
                    return int(answer.body["results"][0]["id"])
                await asyncio.sleep(RETRY_DELAY_S)

    async def _comment(self, client: RetryingClient, build: int) -> None:
        for number in range(self.comment_count):
            text = f"comment {number} on {self.plan.token}"
            answer = await client.call("POST", f"/api/v3/builds/{build}/comment", {"text": text})
            if answer.carried_out:
                self.accepted_comments.append(text)

    async def _stop(self, client: RetryingClient, build: int) -> None:
        if self.stop_after_s is not None:
            await asyncio.sleep(self.stop_after_s)
            self.stop_answer = await client.call("POST", f"/api/v3/builds/{build}/stop")

    async def _report(self, client: RetryingClient, build: int) -> None:
        """Reports and finishes the build as an external pipeline does."""
        await asyncio.sleep(self.plan.duration_s)
        for file in (
            File(build, "junittests.xml", self.plan.report.encode()),
            File(build, "proof.bin", self.plan.proof),
        ):
            await client.call("POST", "/api/v3/artifacts/upload", file=file)
        status = "failed" if self.plan.exit_code else "passed"
        await client.call("POST", f"/api/v3/builds/{build}/finish", {"status": status})


def draw_order(rng: random.Random, token: str) -> Order:
    return Order(
        draw_plan(rng, token),
        comment_count=rng.choice((0, 1, 3)),
        reader_count=rng.choice((1, 1, 2)),
        stop_after_s=rng.uniform(0, 2) if rng.random() < 0.15 else None,
    )


WEBHOOK_EVENTS = {
    "project": ("build.started", "build.finished", "build.failed", "build.cancelled"),
    "all": ("build.finished",),
}
"""Notification types of each webhook: one belongs to the project, the other to all projects."""
OrderingKey = tuple[str, int]
"""Webhook and build id. Messages with the same key must arrive in order."""


@dataclass
class Receiver:
    """Receives webhooks. Refuses some at their first delivery, and accepts others without answering."""

    rng: random.Random
    failure_rate: float = 0.05
    port: int = 0
    received: defaultdict[OrderingKey, list[str]] = field(default_factory=lambda: defaultdict(list))
    """Ids of messages in the order of their first arrival."""
    deliveries: int = 0
    _seen: set[str] = field(default_factory=set)
    _runner: web.ServerRunner | None = None

    async def __aenter__(self) -> "Receiver":
        self._runner = web.ServerRunner(web.Server(self._handle))
        await self._runner.setup()
        await web.TCPSite(self._runner, "127.0.0.1", 0).start()
        self.port = self._runner.addresses[0][1]
        return self

    async def __aexit__(self, *_: object) -> None:
        if self._runner is not None:
            await self._runner.cleanup()

    async def _handle(self, request: web.BaseRequest) -> web.Response:
        body = await request.json()
        key = request.path.strip("/"), int(body["data"]["id"])
        delivery = request.headers["webhook-id"]
        self.deliveries += 1
        if delivery not in self._seen:
            self._seen.add(delivery)
            drawn = self.rng.random()
            if drawn < self.failure_rate / 2:
                return web.Response(status=503)
            if drawn < self.failure_rate:
                # The message is received, but the sender gets no answer.
                self._receive(key, body["id"])
                assert request.transport is not None, "the connection of a request is open"
                request.transport.abort()
                return web.Response()
        self._receive(key, body["id"])
        return web.Response()

    def _receive(self, key: OrderingKey, message: str) -> None:
        if message not in self.received[key]:
            self.received[key].append(message)
