"""Injects faults into a whole server at work: `./dev long faults --rounds 500 --seed 1`.

One stack of real processes, two of each kind, with real agents, runs for all rounds. In each round, load and faults
happen at the same time. The load: builds are started, stopped, commented on and read, a build of a commit has statuses
and tickets, users are invited, a job with many artifacts is deleted, and containers or virtual machines are made for
builds. The faults are drawn from the seed and the number of the round: processes are killed with SIGKILL, paused, or
kept from starting; proxies cut, delay, stall and refuse connections of clients, to PostgreSQL, to Redis, to the Docker
engine and to the vCenter, and lose answers; Redis is wiped; the disks of agents and of the database run full; workers
are killed during a deletion, and deletions are cancelled. Then the faults end, and the rules of tests/faults/rules.py
and of tests/faults/machines.py must hold. Every 50 rounds, and at the end, all read models are rebuilt and compared
with the live tables, row by row.

`--first N` begins at round N, `--round N` runs only that round, `--seconds S` ends the run after the round in which
this time is over. Writes results/faults.json, even if it is interrupted. If a rule was broken, keeps the logs of all
processes in results/faults/ and exits with 1.
"""

import argparse
import asyncio
import json
import logging
import os
import random
import signal
import statistics
import sys
import time
import traceback
from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import aiohttp
import psycopg
from tests.faults import rules
from tests.faults.client import RetryingClient
from tests.faults.injector import Fault, FaultInjector, draw_faults
from tests.faults.load import WEBHOOK_EVENTS, Order, Receiver, draw_order, make_job_command
from tests.faults.machines import MachineHosts, MachineLoad, connect_machine_hosts, running_machine_hosts
from tests.faults.outside import CommitLoad, OutsideSystems
from tests.faults.reactions import Disturbance, ReactionLoad
from tests.faults.readers import EventReader, read_stream
from tests.faults.rules import LogState
from tests.faults.stack import DATABASE, Stack, running_stack
from tests.support.mail_server import MailServer, mail_server
from tests.support.source_host import serving

from bench.support.fault_record import RunRecord
from bench.support.report import write_result
from domain.core.events import Recorded
from domain.tickets import TICKET_CLAIM_LIFETIME
from projections.registry import PROJECTIONS
from store.tables import reactions as due_reactions
from store.tables.build_logs import BuildLogs
from testhide.operator_errors import Fault as OperatorFault
from testhide.processes import core

AGENTS = 2
EVENT_READERS = 2
"""Number of clients that read the feed of all events, in all rounds."""
FAULT_WINDOW_S = 2.5
"""Seconds from the beginning of a round within which all its faults begin."""
END_TIMEOUT_S = 120.0
"""Longest time in seconds from the last fault until all builds have ended. A build may lose its agent several times."""
POLL_INTERVAL_S = 0.1
READ_BUFFER_BYTES = 1 << 20
"""Bytes of the buffer of a reader. A message of a stream is one line, which must fit into it."""
ROUNDS_PER_REBUILD = 50
DELIVERY_TIMEOUT_S = 90.0
"""Longest time in seconds until all deliveries are made. A delivery whose worker was killed is due again after a
minute.
"""
REACTIONS_TIMEOUT_S = 2 * TICKET_CLAIM_LIFETIME.total_seconds() + 60
"""Longest time in seconds, without faults, until no reaction is due. The claim of a killed worker keeps others from
creating its issue.
"""
READER_TIMEOUT_S = 30.0
"""Longest time in seconds, without faults, until a reader of all events has received the last one."""
MAX_BROKEN_ROUNDS = 10


class Suite:
    """Runs rounds on a stack: load and faults at the same time, then the checks."""

    def __init__(
        self,
        stack: Stack,
        commits: CommitLoad,
        receiver: Receiver,
        mails: MailServer,
        machines: MachineLoad | None,
        seed: int,
    ) -> None:
        self._stack = stack
        self._commits = commits
        self._machines = machines
        self._client = client = commits.client
        self._receiver = receiver
        self.injector = FaultInjector(stack)
        if machines is None:
            self.injector.skipped.add("machines on demand: needs root, docker.io and golang-github-vmware-govmomi-dev")
        self._reactions = ReactionLoad(client, stack, self.injector, mails)
        self._event_readers: dict[asyncio.Task[None], EventReader] = {}
        self._seed = seed
        self._job = 0
        self._log = LogState(0)
        self._reported_ends = 0
        self.counts: Counter[str] = Counter()
        self.faults: Counter[str] = Counter()
        self.recovered_s: list[float] = []
        """For each round, the seconds from the last fault until all builds had a verdict and all streams had ended."""

    async def begin(self) -> None:
        """Creates the projects, jobs, webhooks and nodes. Starts the agents and the readers of all events."""
        await self._client.sign_in()
        project = await self._create("/api/v3/projects", name="Faults")
        pool = await self._create("/api/v3/node-pools", name="machines", project_id=project)
        limits = {"max_parallel": 10, "node_pool_id": pool}
        self._job = await self._create("/api/v3/jobs", name="Proof", project_id=project, **limits)
        configuration = {"command": make_job_command(), "setup": [], "env": {}, "artifacts": ["proof.bin"]}
        await self._client.call("PUT", f"/api/v3/jobs/{self._job}/configuration", configuration)
        url = f"http://127.0.0.1:{self._receiver.port}"
        for hook, events in WEBHOOK_EVENTS.items():
            scope = {"project_id": project} if hook == "project" else {}
            await self._create("/api/v3/webhooks", url=f"{url}/{hook}", events=events, **scope)
        for number in range(AGENTS):
            body = {"name": f"machine {number}", "pool_id": pool, "max_parallel": 2}
            node = (await self._client.call("POST", "/api/v3/nodes", body)).body
            self._stack.add_agent(f"agent-{number}", node["agent_token"])
        await self._stack.wait_until_running()
        self._log = LogState(project)
        self._reactions.kept = await self._reactions.make_job(project, "Kept")
        await self._commits.begin()
        if self._machines is not None:
            await self._machines.client.sign_in()
            await self._machines.begin()
        for number in range(EVENT_READERS):
            reader = EventReader()
            task = asyncio.create_task(read_stream(self._client, reader, random.Random(f"{self._seed} {number}")))
            self._event_readers[task] = reader

    def end(self) -> None:
        for task in self._event_readers:
            task.cancel()

    async def run_round(self, number: int) -> tuple[list[Fault], list[str]]:
        """Runs one round. Returns its faults, and descriptions of the rules that were broken."""
        rng = random.Random(f"{self._seed} {number}")
        faults = draw_faults(rng, self._stack, FAULT_WINDOW_S)
        orders = [draw_order(rng, f"r{number}b{index}.") for index in range(rng.randrange(2, 5))]
        self.faults.update(fault.kind for fault in faults)
        disturbance: Disturbance | None = rng.choice((None, "", "wipe", "kill", "cancel"))
        deletion = None
        if disturbance is not None:
            deletion = await self._reactions.make_job(self._log.project, f"Round {number}", disturbance)
        carrying_out = [
            asyncio.create_task(order.carry_out(self._client, self._job, random.Random(rng.random())))
            for order in orders
        ]
        reacting = self._reactions.carry_out(random.Random(rng.random()), f"r{number}", deletion)
        carrying_out.append(asyncio.create_task(reacting))
        committing = self._commits.carry_out(random.Random(rng.random()), f"r{number}c")
        carrying_out.append(asyncio.create_task(committing))
        if self._machines is not None:
            using = self._machines.carry_out(random.Random(rng.random()), f"r{number}m")
            carrying_out.append(asyncio.create_task(using))
        await asyncio.gather(*(self.injector.inject(fault) for fault in faults))
        await self.injector.undo()
        faults_ended_at = time.monotonic()
        broken: list[str] = []
        _, waiting = await asyncio.wait(carrying_out, timeout=END_TIMEOUT_S)
        for task in carrying_out:
            if task in waiting:
                task.cancel()
            elif error := task.exception():
                broken.append("".join(traceback.format_exception(error)))
        if waiting:
            await asyncio.wait(waiting)
            broken.append(
                f"{len(waiting)} builds, their readers or deletions have not ended after {END_TIMEOUT_S:.0f} s"
            )
        self.recovered_s.append(time.monotonic() - faults_ended_at)
        disk_was_full = any(fault.kind == "full disk" and fault.target != DATABASE for fault in faults)
        try:
            broken += await self._check(orders, disk_was_full=disk_was_full)
        except (TimeoutError, aiohttp.ClientError, OperatorFault, psycopg.OperationalError) as error:
            broken.append("".join(traceback.format_exception(error)))
        return faults, broken

    async def _check(self, orders: list[Order], *, disk_was_full: bool) -> list[str]:
        await self._wait_for_read_models()
        async with core(self._stack.settings, pool_size=2) as parts:
            events, broken = await self._log.read_new_events(parts)
            self._reactions.note(events)
            broken += await self._check_event_readers(events)
            broken += self._log.check_acknowledged(self._client)
            logs = BuildLogs(parts.pool)
            for order in orders:
                broken += rules.check_recorded_once(order, events)
                end = rules.find_end(order.plan.token, events)
                if end is None:
                    broken.append(f"{order.plan.token} has not ended")
                    continue
                broken += rules.check_verdict(order, end, disk_was_full=disk_was_full)
                broken += await rules.check_log(logs, order, end, disk_was_full=disk_was_full)
                broken += await rules.check_readers(logs, order, end)
                broken += await rules.check_shown_build(self._client, order, end, disk_was_full=disk_was_full)
                self._count(order, end)
        broken += self._log.check_deliveries(self._receiver, is_complete=False)
        broken += [f"still running after its build: {process}" for process in await self._wait_for_build_processes()]
        broken += [] if self._machines is None else await self._machines.check()
        broken += [f"unexpected end: {end}" for end in self._stack.unexpected_ends[self._reported_ends :]]
        self._reported_ends = len(self._stack.unexpected_ends)
        return broken

    async def _check_event_readers(self, events: Sequence[Recorded]) -> list[str]:
        broken: list[str] = []
        for task, reader in self._event_readers.items():
            deadline = time.monotonic() + READER_TIMEOUT_S
            while (
                int(reader.last_event_id or 0) < self._log.position and not task.done() and time.monotonic() < deadline
            ):
                await asyncio.sleep(POLL_INTERVAL_S)
            if task.done() and (error := task.exception()):
                broken.append("".join(traceback.format_exception(error)))
            broken += self._log.check_event_reader(reader, events)
        return broken

    async def check_all_delivered(self) -> list[str]:
        deadline = time.monotonic() + DELIVERY_TIMEOUT_S
        while self._log.count_undelivered(self._receiver) and time.monotonic() < deadline:
            await asyncio.sleep(POLL_INTERVAL_S)
        return list(self._log.check_deliveries(self._receiver, is_complete=True))

    async def check_reactions(self) -> list[str]:
        """Waits until no reaction is due, and checks that all reactions were carried out. Returns the broken rules."""
        self._commits.outside.failure_rate = 0.0
        await self._wait_for_read_models()
        async with core(self._stack.settings, pool_size=1) as parts:
            deadline = time.monotonic() + REACTIONS_TIMEOUT_S
            while due := [item for item in await due_reactions.fetch_statuses(parts.pool) if item.due or item.parked]:
                if time.monotonic() > deadline:
                    return [f"due or parked after {REACTIONS_TIMEOUT_S:.0f} s: {status}" for status in due]
                await asyncio.sleep(POLL_INTERVAL_S)
        return [*self._reactions.check(), *self._commits.check()]

    async def check_machines(self) -> list[str]:
        """Waits until no machine on demand is left. Returns the broken rules."""
        return [] if self._machines is None else await self._machines.check(is_last=True)

    async def check_rebuild(self) -> list[str]:
        """Rebuilds all read models and compares them with the live tables, with the commands that operators use.
        Returns the broken rules.
        """
        names = [projection.name for projection in PROJECTIONS]
        broken = []
        for verb in (["rebuild", "--from-scratch"], ["diff"], ["drop"]):
            failure = await self._run_projections(*verb, *names)
            if failure is not None:
                broken.append(f"projections {' '.join(verb)}: {failure}")
        self.counts["rebuilds compared"] += 1
        return broken

    async def _run_projections(self, *arguments: str) -> str | None:
        """Runs `testhide projections`. Returns its output if it fails; None if it exits with 0."""
        process = await asyncio.create_subprocess_exec(
            *(sys.executable, "-P", "-m", "testhide", "projections", *arguments),
            env={**os.environ, "TESTHIDE_SETTINGS": str(self._stack.folder / "settings.json")},
            stdout=asyncio.subprocess.PIPE,
            stderr=asyncio.subprocess.STDOUT,
        )
        output, _ = await process.communicate()
        return None if process.returncode == 0 else output.decode(errors="replace")

    async def _wait_for_read_models(self) -> None:
        """Waits until the database accepts connections, which it does seconds after a crash, and the read models are at
        the end of the log. Raises TimeoutError.
        """
        async with asyncio.timeout(END_TIMEOUT_S):
            while (await self._client.call("GET", "/api/v3/readyz")).status != 200:
                await asyncio.sleep(POLL_INTERVAL_S)

    async def _wait_for_build_processes(self) -> list[str]:
        """Returns the processes of builds that still run after 10 s."""
        deadline = time.monotonic() + 10
        while (left := self._stack.list_build_processes()) and time.monotonic() < deadline:
            await asyncio.sleep(POLL_INTERVAL_S)
        return left

    def figures(self) -> dict[str, Any]:
        recovered = self.recovered_s
        return {
            "faults": dict(self.faults.most_common()),
            "not possible here": sorted(self.injector.skipped),
            "counts": dict(sorted(self.counts.items())),
            "reactions": dict(sorted(self._reactions.counts.items())),
            "outside": dict(sorted(self._commits.counts.items())),
            "machines": {} if self._machines is None else dict(sorted(self._machines.counts.items())),
            "connections of readers of all events": sum(reader.connections for reader in self._event_readers.values()),
            "messages": sum(map(len, self._log.expected_messages.values())),
            "deliveries that arrived": self._receiver.deliveries,
            "recovered after s": {"p50": round(statistics.median(recovered), 1), "max": round(max(recovered), 1)}
            if recovered
            else {},
        }

    def _count(self, order: Order, end: rules.BuildEnd) -> None:
        self.counts["builds"] += 1
        self.counts[f"builds {end.finished.reason or end.finished.status}"] += 1
        self.counts["external builds"] += order.plan.external
        self.counts["attempts"] += end.attempts
        self.counts["log lines"] += end.finished.log_lines
        self.counts["readers"] += len(order.readers)
        self.counts["connections of readers"] += sum(reader.connections for reader in order.readers)

    async def _create(self, path: str, **body: Any) -> int:
        answer = await self._client.call("POST", path, body)
        assert answer.status in (200, 201), answer
        return int(answer.body["id"])


async def run(rounds: range, seconds: float | None, record: RunRecord, hosts: MachineHosts | None) -> None:
    task = asyncio.current_task()
    assert task is not None, "a coroutine runs in a task"
    asyncio.get_running_loop().add_signal_handler(signal.SIGTERM, task.cancel)
    rng = random.Random(record.seed)
    outside = OutsideSystems(rng)

    async def connect(stack: Stack, ports: list[int]) -> None:
        if hosts is not None:
            await connect_machine_hosts(stack, hosts, ports, rng)

    async with (
        Receiver(rng) as receiver,
        aiohttp.ClientSession(connector=aiohttp.TCPConnector(limit=0), read_bufsize=READ_BUFFER_BYTES) as http,
        mail_server() as mails,
        serving(outside.handle) as outside.url,
        running_stack(rng, mails.url, connect) as stack,
    ):
        commits = CommitLoad(RetryingClient(http, stack.url), outside)
        machines = None if hosts is None else MachineLoad(RetryingClient(http, stack.url), stack, hosts)
        suite = Suite(stack, commits, receiver, mails, machines, record.seed)
        record.figures = suite.figures
        await suite.begin()
        try:
            await _run_rounds(rounds, seconds, record, suite, stack)
        finally:
            suite.end()


async def _run_rounds(rounds: range, seconds: float | None, record: RunRecord, suite: Suite, stack: Stack) -> None:
    for number in rounds:
        begun_at = record.seconds
        faults, broken = await suite.run_round(number)
        record.rounds += 1
        record.add(stack, f"round {number}", broken, faults)
        print(f"    {record.seconds - begun_at:.1f} s", file=sys.stderr)
        if record.rounds % ROUNDS_PER_REBUILD == 0:
            record.add(stack, f"rebuild after round {number}", await suite.check_rebuild())
        if len(record.broken) >= MAX_BROKEN_ROUNDS or (seconds is not None and record.seconds > seconds):
            break
    record.add(stack, "deliveries at the end", await suite.check_all_delivered())
    record.add(stack, "reactions at the end", await suite.check_reactions())
    record.add(stack, "machines at the end", await suite.check_machines())
    record.add(stack, "rebuild at the end", await suite.check_rebuild())


def main() -> int:
    parser = argparse.ArgumentParser(description="Inject faults into a server at work, round by round.")
    parser.add_argument("--rounds", type=int, default=500)
    parser.add_argument("--first", type=int, default=1, help="begin with this round")
    parser.add_argument("--round", type=int, help="run only this round")
    parser.add_argument("--seconds", type=float, help="stop after this time")
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--results", type=Path, default=Path("results"))
    options = parser.parse_args()
    first, last = (options.first, options.rounds) if options.round is None else (options.round, options.round)
    logging.getLogger("mail.log").setLevel(logging.ERROR)  # of the mail server, which warns of passwords without TLS
    record = RunRecord(options.seed, options.results / "faults")
    ended_early = True
    try:
        with running_machine_hosts() as hosts:
            asyncio.run(run(range(first, last + 1), options.seconds, record, hosts))
        ended_early = False
    except (KeyboardInterrupt, asyncio.CancelledError):
        print("interrupted", file=sys.stderr)
    finally:
        result = record.as_json(ended_early=ended_early)
        write_result(options.results, "faults", result)
        print(json.dumps(result))
    return 1 if record.broken or ended_early else 0


if __name__ == "__main__":
    sys.exit(main())
