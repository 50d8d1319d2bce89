"""A small company on a real server, led by generated steps: users, jobs, builds, build machines and what goes wrong.

A history is a list of steps; each is an action of `World` with its choices, which name whom or what as numbers. After
it, whatever still waits or runs is brought to its end, and then everything must fit together: what was answered, what
is shown, and what the log says.
"""

from __future__ import annotations

import asyncio
import contextlib
from collections import Counter
from collections.abc import Callable, Sequence
from concurrent.futures import Future, ThreadPoolExecutor, wait
from dataclasses import dataclass, field
from time import monotonic
from typing import Any

import psycopg
import requests

from testhide.processes import core
from tests.e2e.auditor import Auditor
from tests.e2e.rules import LogRules
from tests.e2e.steps import Step
from tests.support.builders import Shop
from tests.support.fake_agent import FakeAgent
from tests.support.http import Client
from tests.support.server import Server

PATIENCE_S = 0.15
"""How long a step waits for a poll to be answered before it leaves it open."""
END_S = 30.0
NEEDS = {"read": 1, "write": 2, "admin": 3}
HAS = {"stranger": 0, "reader": 1, "writer": 2, "admin": 3}


@dataclass
class Machine:
    node_id: int
    token: str
    max_parallel: int
    agent: FakeAgent
    held: list[dict[str, Any]] = field(default_factory=list)
    polls: list[Future[requests.Response]] = field(default_factory=list)
    ghosts: list[tuple[FakeAgent, dict[str, Any]]] = field(default_factory=list)
    """What agents that vanished may still say, and of which build."""


@dataclass
class Company:
    """What all histories share: one project and its users."""

    server: Server
    shop: Shop
    users: dict[str, Client]
    threads: ThreadPoolExecutor
    silent: set[str]
    """The actors that may change nothing."""
    seen: Counter[str] = field(default_factory=Counter)

    @staticmethod
    def of(server: Server, threads: ThreadPoolExecutor) -> Company:
        shop = Shop(server)
        users = {
            "admin": server.admin,
            "writer": server.make_user("developer", {shop.project: "write"}),
            "reader": server.make_user("developer", {shop.project: "read"}),
            "stranger": server.make_user("developer"),
        }
        silent = {f"user:{users[who].get('/api/v3/me').json()['id']}" for who in ("reader", "stranger")}
        return Company(server, shop, users, threads, silent)


class World:
    def __init__(self, company: Company) -> None:
        self.company = company
        self.shop, self.admin = company.shop, company.server.admin
        self.begins = asyncio.run(self._head())
        self.jobs: list[int] = []
        self.machines: list[Machine] = []
        self.builds: list[int] = []
        self.deleted: list[int] = []
        self.auditor = Auditor(company.server)
        self.add_job(2)
        self.add_job(3)
        self.add_machine(2)

    # ----- people -----

    def start(self, who: str, job: int, priority: int, external: bool) -> None:
        body = {"job_id": _pick(self.jobs, job), "priority": priority, "external": external}
        answer = self._asks(who, "write", "POST", "/api/v3/builds/start", {201}, json=body)
        if answer.ok:
            self.builds.append(answer.json()["id"])

    def stop(self, who: str, build: int) -> None:
        self._about(who, build, "write", "POST", "/stop", {200, 409})

    def push_to_top(self, who: str, build: int) -> None:
        self._about(who, build, "write", "POST", "/push_to_top", {200, 409})

    def keep(self, who: str, build: int, kept: bool) -> None:
        answer = self._about(who, build, "write", "POST" if kept else "DELETE", "/keep-forever", {200})
        assert not answer.ok or answer.json()["keep_forever"] is kept

    def finish_external(self, who: str, build: int, status: str) -> None:
        self._about(who, build, "write", "POST", "/finish", {200, 409}, json={"status": status})

    def restart(self, who: str, build: int, failed_only: bool) -> None:
        body = {"failed_only": failed_only}
        answer = self._about(who, build, "write", "POST", "/restart", {201, 409}, json=body)
        if answer.ok:
            self.builds.append(answer.json()["id"])

    def delete(self, who: str, build: int) -> None:
        answer = self._about(who, build, "admin", "DELETE", "", {204, 409})
        if answer.status_code == 204:
            gone = _pick(self.builds, build)
            self.builds.remove(gone)
            self.deleted.append(gone)
            self._is_gone(gone)

    def look(self, who: str, build: int) -> None:
        """Whoever may see a build sees all of it, a stranger not even that it is there."""
        number, job = _pick(self.builds, build), _pick(self.jobs, build)
        paths = [f"/api/v3/builds/{number}{part}" for part in ("", "/pipeline_logs")]
        paths += [f"/api/v3/report/{number}", f"/api/v3/tests?build_id={number}"] if number else []
        paths += [f"/api/v3/jobs/{job}", f"/api/v3/quarantine?job_id={job}"]
        for path in paths[0 if number else 2 :]:
            self._asks(who, "read", "GET", path, {200})
        shown = self.company.users[who].get("/api/v3/builds", params={"limit": 200}).json()
        assert who != "stranger" or shown == {"total": 0, "results": []}, shown
        self.auditor.look(f"/api/v3/builds?job_id={job}", f"/api/v3/builds?job_id={job}&status=queued")

    def quarantine(self, who: str, job: int, test: int) -> None:
        body = {"job_id": _pick(self.jobs, job), "node_id": f"t.py::test_{test}", "reason": "flaky"}
        self._asks(who, "write", "POST", "/api/v3/quarantine", {201, 409}, json=body)

    def quarantine_node(self, who: str, machine: int, inside: bool) -> None:
        path = f"/api/v3/nodes/{_pick(self.machines, machine).node_id}/quarantine"
        answer = self.company.users[who].request("POST" if inside else "DELETE", path)
        assert answer.status_code == (200 if who == "admin" else 403), answer.text

    def all_at_once(self, build: int, machine: int) -> None:
        """A user stops a build, others move it and run it again, and its agent ends it, in the same moment."""
        if not (number := _pick(self.builds, build)):
            return
        paths = [f"/api/v3/builds/{number}/{what}" for what in ("stop", "push_to_top", "restart", "stop")]
        clients = [self.admin, self.company.users["writer"]] * 2
        calls = [self.company.threads.submit(client.post, path) for client, path in zip(clients, paths, strict=True)]
        running = _pick(self.machines, machine)
        endings = [self.company.threads.submit(running.agent.finished, held) for held in running.held]
        for call in calls:
            answer = call.result()
            assert answer.status_code in (200, 201, 409), answer.text
            if answer.status_code == 201:
                self.builds.append(answer.json()["id"])
        assert all(call.result().status_code in (200, 404, 409) for call in endings)
        running.held.clear()

    # ----- machines -----

    def add_job(self, max_parallel: int) -> None:
        self.jobs.append(self.shop.new_job(max_parallel=max_parallel))

    def add_machine(self, max_parallel: int) -> None:
        token = self.shop.new_token(max_parallel)
        agent = FakeAgent(self.company.server.url, token)
        answer = agent.connect()
        answer.raise_for_status()
        self.machines.append(Machine(answer.json()["node_id"], token, max_parallel, agent))

    def poll(self, machine: int, free: int) -> None:
        """Asks for builds, more than the node may have, too; the poll stays open for a while."""
        asking = _pick(self.machines, machine)
        asking.polls.append(self.company.threads.submit(asking.agent.ask, free))
        self._hear(asking, PATIENCE_S)

    def work(self, machine: int, which: int, until: int, passed: int, failed: int, exit_code: int | None) -> None:
        """Brings a build on: acknowledged, its log, a report, then finished, or less than that."""
        working = _pick(self.machines, machine)
        self._hear(working, 0)
        if not working.held:
            self.poll(machine, 1)
        if not working.held:
            return
        build, agent = _pick(working.held, which), working.agent
        does: list[Callable[[], requests.Response]] = [
            lambda: agent.started(build),
            lambda: agent.log(build, 0, ["one", "two"]),
            lambda: agent.report(build, _report(passed, failed), f"{passed}{failed}.xml"),
            lambda: agent.finished(build, exit_code),
        ]
        for do in does[: until + 1]:
            answer = do()
            assert answer.status_code in (200, 404, 409), answer.text
            if answer.status_code != 200:
                working.held.remove(build)  # it was taken from this agent
                return
        if until == len(does) - 1:
            working.held.remove(build)

    def beat(self, machine: int) -> None:
        beating = _pick(self.machines, machine)
        lost = {build_id for build_id, _ in beating.agent.beat(*beating.held)}
        beating.held = [build for build in beating.held if build["id"] not in lost]

    def rival(self, machine: int) -> None:
        """Another machine with the same token, while the first is alive."""
        first = _pick(self.machines, machine)
        first.agent.beat()
        second = FakeAgent(self.company.server.url, first.token)
        assert second.connect().status_code == 409
        assert second.ask().status_code == 409

    def vanish(self, machine: int) -> None:
        """An agent is not heard of for longer than it may, then a new one starts in its place."""
        gone = _pick(self.machines, machine)
        gone.ghosts += [(gone.agent, build) for build in gone.held]
        gone.held = []
        with psycopg.connect(self.company.server.settings.database_url) as connection:
            connection.execute(
                "UPDATE agent_gauges SET seen_at = seen_at - interval '20 s' WHERE node_id = %s", (gone.node_id,)
            )
        gone.agent = FakeAgent(self.company.server.url, gone.token).connected()

    def ghost(self, machine: int, which: int, until: int) -> None:
        """An agent that was thought dead goes on with its build."""
        haunted = _pick(self.machines, machine)
        if haunted.ghosts:
            agent, build = _pick(haunted.ghosts, which)
            for report in (agent.started, lambda build: agent.log(build, 0, ["boo"]), agent.finished)[: until + 1]:
                assert report(build).status_code in (200, 404, 409)
            assert agent.ask().status_code == 409

    def _hear(self, machine: Machine, patience_s: float) -> None:
        if machine.polls:
            wait(machine.polls[-1:], patience_s)
        for call in [call for call in machine.polls if call.done()]:
            machine.polls.remove(call)
            answer = call.result()
            # 409: the poll of an agent that another has replaced.
            assert answer.status_code in (200, 204, 409), answer.text
            message = answer.json() if answer.status_code == 200 else {}
            if message.get("type") == "run":
                machine.held.append(message["build"])
            elif message.get("type") == "stop":
                machine.held = [build for build in machine.held if build["id"] != message["build_id"]]

    # ----- the end -----

    def end(self) -> LogRules:
        """Half of the machines go for good, the others work until nothing is left; then everything is looked at."""
        for machine in self.machines:
            self.admin.delete(f"/api/v3/nodes/{machine.node_id}/quarantine").raise_for_status()
        for machine in self.machines[1::2]:
            self._hang_up(machine)
            assert self.admin.delete(f"/api/v3/nodes/{machine.node_id}").status_code == 204
        for number in self.builds:
            if self.shop.build(number)["external"]:
                assert self.admin.post(f"/api/v3/builds/{number}/stop").status_code in (200, 409)
        staying = self.machines[::2]
        for index in range(len(staying)):
            self.vanish(2 * index)
        deadline = monotonic() + END_S
        while left := self._open():
            assert monotonic() < deadline, f"these wait or run for ever: {left}"
            for index, machine in enumerate(staying):
                if not machine.held:
                    self.poll(2 * index, machine.max_parallel)
                for build in machine.held:
                    assert machine.agent.finished(build).status_code in (200, 404, 409)
                machine.held = []
        for machine in staying:
            self._hang_up(machine)
            assert self.admin.delete(f"/api/v3/nodes/{machine.node_id}").status_code == 204
        self.company.server.wait_until_projected()
        rules = asyncio.run(self._rules())
        self._fits(rules)
        self.company.seen.update(rules.seen)
        return rules

    @staticmethod
    def _hang_up(machine: Machine) -> None:
        """Ends the polls that are open: another one takes their place, and its connection is cut."""
        deadline = monotonic() + END_S
        while wait(machine.polls, 0).not_done:
            assert monotonic() < deadline, "a poll goes on though another took its place"
            with contextlib.suppress(requests.Timeout):
                machine.agent.http.get(f"/api/v3/agent/next?session={machine.agent.session}&free=0", timeout=0.1)

    def _open(self) -> list[int]:
        """Builds that are queued or running."""
        return [
            item["id"]
            for job in self.jobs
            for status in ("queued", "running")
            for item in self.admin.get("/api/v3/builds", params={"job_id": job, "status": status}).json()["results"]
        ]

    def _fits(self, rules: LogRules) -> None:
        assert not rules.actors & self.company.silent, "a reader or a stranger has changed something"
        lives = {number: life for number, life in rules.lives.items() if life.phase != "deleted"}
        assert sorted(lives) == sorted(self.builds)
        assert all(life.phase == "finished" for life in lives.values())
        listed: dict[int, Any] = {}
        for job in self.jobs:
            page = self.admin.get("/api/v3/builds", params={"job_id": job, "limit": 200}).json()
            assert page["total"] == len(page["results"])
            listed |= {item["id"]: item for item in page["results"]}
        assert sorted(listed) == sorted(lives)
        for number, life in lives.items():
            detail = self.shop.build(number)
            report = self.admin.get(f"/api/v3/report/{number}").json()
            assert {name: detail[name] for name in listed[number]} == listed[number]
            assert (detail["status"], detail["attempt"]) == (life.status, life.attempt)
            assert (detail["keep_forever"], detail["job_id"]) == (life.pinned, life.job_id)
            counts = ("passed", "failed", "skipped", "known_issues", "quarantined")
            assert {name: detail[name] for name in counts} == {name: report[name] for name in counts}
            assert detail["total_tests"] == report["total"]
            assert detail["failed_tests"] == report["failed"]
            tests = self.admin.get(f"/api/v3/tests?build_id={number}&status=failed").json()
            assert tests["total"] == report["failed"]
            ignored = detail["quarantined"] + detail["known_issues"]
            assert detail["status"] != "passed" or detail["failed"] == ignored, "green with failures"
        for number in self.deleted:
            self._is_gone(number)
        self.company.seen["answers as of then"] += self.auditor.look_back(self.deleted)

    def _is_gone(self, number: int) -> None:
        for path in (f"builds/{number}", f"report/{number}", f"tests?build_id={number}"):
            assert self.admin.get(f"/api/v3/{path}").status_code == 404

    async def _head(self) -> int:
        async with core(self.company.server.settings, pool_size=1) as parts:
            return await parts.log.read_head()

    async def _rules(self) -> LogRules:
        rules = LogRules(self.shop.project)
        async with core(self.company.server.settings, pool_size=1) as parts:
            rules.check(await parts.log.read(self.begins, 1_000_000))
        return rules

    def _about(self, who: str, build: int, needs: str, method: str, path: str, fine: set[int], **more: Any) -> Any:
        number = _pick(self.builds, build) or 2**40
        fine = fine if number in self.builds else {404}
        return self._asks(who, needs, method, f"/api/v3/builds/{number}{path}", fine, **more)

    def _asks(self, who: str, needs: str, method: str, path: str, fine: set[int], **more: Any) -> requests.Response:
        """The answer; 404 for who may not see it, 403 for who may not do it."""
        if fine != {404} and HAS[who] < NEEDS[needs]:
            fine = {404 if who == "stranger" else 403}
        answer = self.company.users[who].request(method, path, **more)
        assert answer.status_code in fine, f"{who}: {method} {path}: {answer.status_code} {answer.text}"
        return answer


def play(company: Company, steps: Sequence[Step]) -> None:
    """Raises AssertionError with the steps up to there."""
    world, done = World(company), list[str]()
    try:
        for step in steps:
            done.append(str(step))
            getattr(world, step.what)(**step.given)
            company.seen[f"step {step.what}"] += 1
        done.append("end()")
        world.end()
    except Exception as error:
        error.add_note("after " + "\n  ".join(done))
        raise


def _pick(items: Sequence[Any], number: int) -> Any:
    return items[number % len(items)] if items else None


def _report(passed: int, failed: int) -> bytes:
    """Of tests 0, 1, 2, ...: first those that failed."""
    cases = [
        f'<testcase classname="t" name="test_{number}" time="0.1"><properties><property name="nodeid"'
        f' value="t.py::test_{number}"/></properties>{"<failure/>" if number < failed else ""}</testcase>'
        for number in range(failed + passed)
    ]
    return f'<testsuites><testsuite name="s">{"".join(cases)}</testsuite></testsuites>'.encode()
