"""What goes on while things break: builds that say what they should come to, and people who write and read."""

import asyncio
import json
import random
import sys
from collections import defaultdict
from dataclasses import asdict, dataclass, field

from aiohttp import web

from tests.faults.calling import ANSWER_S, PAUSE_S, Answer, Caller, File
from tests.faults.reading import HeardOfBuild, listen

PLAN = "FAULTS_PLAN"
SCRIPT = """
import json, os, subprocess, sys, time
plan = json.loads(os.environ["FAULTS_PLAN"])
token, lines = plan["token"], plan["lines"]
if plan["leaves"]:
    subprocess.Popen(["sleep", "600"], start_new_session=True)
for number in range(1, lines + 1):
    print(f"line {number} of {lines} of {token}", flush=True)
    time.sleep(plan["pause_s"])
with open("proof.bin", "wb") as proof:
    proof.write((token.encode() * (plan["size"] // len(token) + 1))[: plan["size"]])
with open("junittests.xml", "w") as report:
    report.write(plan["report"])
print(f"end of {token}", flush=True)
sys.exit(plan["exit_code"])
"""


@dataclass(frozen=True)
class Plan:
    """A build, and what it comes to when nothing is in its way."""

    token: str
    lines: int
    pause_s: float
    passed: int
    failed: int
    exit_code: int
    size: int
    leaves: bool
    """It leaves a process behind that goes on."""
    external: bool
    """Its pipeline runs elsewhere and reports, without lines."""

    @property
    def verdict(self) -> tuple[str, int | None]:
        """Status and exit code."""
        return "failed" if self.failed or self.exit_code else "passed", None if self.external else self.exit_code

    @property
    def takes_s(self) -> float:
        return self.lines * self.pause_s

    @property
    def output(self) -> list[str]:
        if self.external:
            return []
        said = [f"line {number} of {self.lines} of {self.token}" for number in range(1, self.lines + 1)]
        return [*said, f"end of {self.token}"]

    @property
    def proof(self) -> bytes:
        return (self.token.encode() * (self.size // len(self.token) + 1))[: self.size]

    @property
    def report(self) -> str:
        cases = [f'<testcase classname="t" name="p{n}" time="0.01"/>' for n in range(self.passed)]
        cases += [f'<testcase classname="t" name="f{n}"><failure message="no"/></testcase>' for n in range(self.failed)]
        return f'<testsuite name="s">{"".join(cases)}</testsuite>'

    @property
    def env(self) -> dict[str, str]:
        return {PLAN: json.dumps(asdict(self) | {"report": self.report})}


def drawn_plan(rng: random.Random, token: str) -> Plan:
    """Some are over at once, none takes longer than some three seconds."""
    failed = rng.choice((0, 0, 1, 3))
    lines = rng.choice((5, 40, 200, 1_500))
    return Plan(
        token=token,
        lines=lines,
        pause_s=rng.choice((0.3, 1.5, 3.0)) / lines,
        passed=rng.randrange(1, 30),
        failed=failed,
        exit_code=1 if failed else rng.choice((0, 0, 0, 3)),
        size=rng.choice((10, 5_000, 700_000)),
        leaves=rng.random() < 0.2,
        external=rng.random() < 0.25,
    )


def command() -> str:
    """Of the job: does what the build's plan says."""
    return f"exec {sys.executable} -I - <<'END'{SCRIPT}END"


@dataclass
class Order:
    """A build that somebody asks for, talks about, reads and perhaps stops; and what was answered."""

    plan: Plan
    comments: int
    readers: int
    stop_after_s: float | None
    started: Answer | None = None
    stopped: Answer | None = None
    commented: list[str] = field(default_factory=list)
    """Texts that were taken."""
    heard: list[HeardOfBuild] = field(default_factory=list)

    async def follow(self, caller: Caller, job: int, rng: random.Random) -> None:
        """Until its readers were told that it has ended. Raises TimeoutError."""
        what = {"job_id": job, "branch": self.plan.token, "external": self.plan.external}
        self.started = await caller.call("POST", "/api/v3/builds/start", what | {"env": self.plan.env})
        if self.started.status in (200, 201):
            build = int(self.started.body["id"])
        else:
            assert self.started.carried_out, self.started
            build = await self._found(caller)
        self.heard = [HeardOfBuild(build) for _ in range(self.readers)]
        async with asyncio.TaskGroup() as people:
            for heard in self.heard:
                people.create_task(listen(caller, heard, random.Random(rng.random())))
            people.create_task(self._comment(caller, build))
            people.create_task(self._stop(caller, build))
            if self.plan.external:
                people.create_task(self._report(caller, build))

    async def _found(self, caller: Caller) -> int:
        """What was started, where that is all that is known of it."""
        async with asyncio.timeout(ANSWER_S):
            while True:
                answer = await caller.call("GET", f"/api/v3/builds?branch={self.plan.token}")
                if answer.body["results"]:
                    return int(answer.body["results"][0]["id"])
                await asyncio.sleep(PAUSE_S)

    async def _comment(self, caller: Caller, build: int) -> None:
        for number in range(self.comments):
            text = f"comment {number} on {self.plan.token}"
            answer = await caller.call("POST", f"/api/v3/builds/{build}/comment", {"text": text})
            if answer.carried_out:
                self.commented.append(text)

    async def _stop(self, caller: Caller, build: int) -> None:
        if self.stop_after_s is not None:
            await asyncio.sleep(self.stop_after_s)
            self.stopped = await caller.call("POST", f"/api/v3/builds/{build}/stop")

    async def _report(self, caller: Caller, build: int) -> None:
        """What the pipeline elsewhere does."""
        await asyncio.sleep(self.plan.takes_s)
        for file in (
            File(build, "junittests.xml", self.plan.report.encode()),
            File(build, "proof.bin", self.plan.proof),
        ):
            await caller.call("POST", "/api/v3/artifacts/upload", file=file)
        status = "failed" if self.plan.exit_code else "passed"
        await caller.call("POST", f"/api/v3/builds/{build}/finish", {"status": status})


def drawn_order(rng: random.Random, token: str) -> Order:
    return Order(
        drawn_plan(rng, token),
        comments=rng.choice((0, 1, 3)),
        readers=rng.choice((1, 1, 2)),
        stop_after_s=rng.uniform(0, 2) if rng.random() < 0.15 else None,
    )


HOOKS = {
    "of-project": ("build.started", "build.finished", "build.failed", "build.cancelled"),
    "of-all": ("build.finished",),
}
"""What each webhook is to be told."""
Lane = tuple[str, int]
"""A webhook and a build: what it is told of that comes in order."""


@dataclass
class Receiver:
    """Takes webhooks; refuses or drops some the first time that they come."""

    rng: random.Random
    trouble: float = 0.05
    port: int = 0
    taken: defaultdict[Lane, list[str]] = field(default_factory=lambda: defaultdict(list))
    """The ids of messages in the order in which they were first taken."""
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
        lane = request.path.strip("/"), int(body["data"]["id"])
        delivery = request.headers["webhook-id"]
        self.deliveries += 1
        if delivery not in self._seen:
            self._seen.add(delivery)
            drawn = self.rng.random()
            if drawn < self.trouble / 2:
                return web.Response(status=503)
            if drawn < self.trouble:
                # Taken, but its sender is not told so.
                self._take(lane, body["id"])
                assert request.transport is not None, "it has just asked"
                request.transport.abort()
                return web.Response()
        self._take(lane, body["id"])
        return web.Response()

    def _take(self, lane: Lane, message: str) -> None:
        if message not in self.taken[lane]:
            self.taken[lane].append(message)
