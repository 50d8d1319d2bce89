"""Many readers of one running build: `python -m bench.sse`.

An agent writes evenly, a few lines at a time; each line carries the time at which it was sent. All readers are one
process on the same machine as the server, so what they cost is in the figures. A delay is from there to the arrival of
the line at one reader.
"""

import argparse
import asyncio
import json
import resource
import sys
import time
import zlib
from collections import Counter
from collections.abc import AsyncIterator
from typing import Any, cast

import psutil
import uvloop

from bench.support.http import Connection
from bench.support.report import Report
from bench.support.stack import Stack, running_stack

AT_ONCE = 10
"""Lines that the agent sends together."""
OPENED_AT_ONCE = 50
BEAT_S = 10.0
"""Between two heartbeats: an agent that is silent for long loses its build."""
WARM_S = 3.0
PATIENCE_S = 30.0
SAMPLE_S = 0.25
FILES = 10_000
SESSION = "bench-sse"
END = b'data: {"type":"done"}'


class Reader(asyncio.Protocol):
    """One connection: takes the chunks of the answer apart and notes when how many lines have come."""

    def __init__(self, request: bytes, *, keeps: bool) -> None:
        self._request = request
        self._unread = b""
        self._has_head = False
        self._last = b""
        self.kept = bytearray() if keeps else None
        self.began = asyncio.get_running_loop().create_future()
        self.ended = asyncio.get_running_loop().create_future()
        self.messages = 0
        self.checksum = 0
        self.arrivals: list[tuple[float, int]] = []
        """(time, messages by then)"""

    def connection_made(self, transport: asyncio.BaseTransport) -> None:
        cast(asyncio.Transport, transport).write(self._request)

    def data_received(self, data: bytes) -> None:
        data = self._unread + data
        start = 0
        if not self._has_head:
            start = data.find(b"\r\n\r\n") + 4
            if start == 3:
                self._unread = data
                return
            assert data.startswith(b"HTTP/1.1 200"), data
            self._has_head = True
            self.began.set_result(None)
        while (line := data.find(b"\r\n", start)) >= 0:
            size = int(data[start:line], 16)
            if line + size + 4 > len(data):
                break
            self._took(data[line + 2 : line + 2 + size])
            start = line + size + 4
        self._unread = data[start:]

    def connection_lost(self, exc: Exception | None) -> None:
        for waited in (self.began, self.ended):
            if not waited.done():
                waited.set_exception(ConnectionError("the server closed the connection"))

    def _took(self, chunk: bytes) -> None:
        if not chunk:
            self.ended.set_result(None)
            return
        self.checksum = zlib.crc32(chunk, self.checksum)
        self.messages += chunk.count(b"\n\n") + (self._last == b"\n" and chunk.startswith(b"\n"))
        self._last = b"" if chunk.endswith(b"\n\n") else chunk[-1:]
        self.arrivals.append((time.time(), self.messages))
        if self.kept is not None:
            self.kept += chunk


class Agent:
    """Takes up one build and writes its log."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._build: dict[str, Any] = {}
        self._sent = 0
        self._beat_at = time.monotonic()

    async def take_up(self) -> None:
        hello = {"version": "1", "platform": "linux", "hostname": "bench", "cpu_cores": 2, "ram_gb": 4.0, "running": []}
        await self._call("POST", "/api/v3/agent/connect", hello | {"session": SESSION})
        while not self._build:
            message = await self._call("GET", f"/api/v3/agent/next?session={SESSION}&free=1")
            self._build = message["build"] if message else {}
        await self._about("started", {})

    async def write(self, lines: int) -> None:
        texts = [[int(time.time() * 1000), f"{self._sent + n} {time.time_ns()} {'.' * 30}"] for n in range(lines)]
        await self._about("log", {"offset": self._sent, "lines": texts})
        self._sent += lines
        if time.monotonic() - self._beat_at > BEAT_S:
            await self._beat()

    async def finish(self) -> None:
        await self._about("finished", {"exit_code": 0, "log_lines": self._sent})

    async def _beat(self) -> None:
        self._beat_at = time.monotonic()
        gauges = {"cpu_pct": 0, "ram_pct": 0, "disk_free_gb": 1, "uptime_s": 1}
        running = [[self._build["id"], self._build["attempt"]]]
        await self._call("POST", "/api/v3/agent/heartbeat", {"session": SESSION, "running": running, **gauges})

    async def _about(self, what: str, body: object) -> None:
        path = f"/api/v3/agent/builds/{self._build['id']}/{what}?attempt={self._build['attempt']}"
        await self._call("POST", path, body)

    async def _call(self, method: str, path: str, body: object = None) -> Any:
        content = b"" if body is None else json.dumps(body).encode()
        status, _, answer = await self._connection.send(self._connection.prepared(method, path, content))
        assert status in (200, 204), answer
        return json.loads(answer) if answer else None


async def measure(stack: Stack, count: int, per_s: int, seconds: float, report: Report) -> None:
    build, agent = await started(stack)
    server = [psutil.Process(stack.pids[name]) for name in ("serve", "project", "dispatch", "work")]
    idle = rss(server)
    readers = await opened(stack, build, count)
    memory = asyncio.create_task(most(server))
    began = cpu_s(server)
    async for _ in ticks(per_s / AT_ONCE, WARM_S + seconds):
        await agent.write(AT_ONCE)
    spent = cpu_s(server) - began
    await agent.finish()
    async with asyncio.timeout(PATIENCE_S):
        await asyncio.gather(*(reader.ended for reader in readers))
    memory.cancel()
    tell(report, readers, int((WARM_S + seconds) * per_s), int(WARM_S * per_s))
    report.add("server memory above idle, at most", (await memory - idle) / 2**20, "MB", at_most=250)
    report.add("CPU of the server", 100 * spent / (WARM_S + seconds), "% of a core")


async def started(stack: Stack) -> tuple[int, Agent]:
    """A build whose log an agent of ours is about to write."""
    project = stack.call("POST", "/api/v3/projects", {"name": "sse"})["id"]
    pool = stack.call("POST", "/api/v3/node-pools", {"name": "sse", "project_id": project})["id"]
    job = stack.call("POST", "/api/v3/jobs", {"name": "sse", "project_id": project, "node_pool_id": pool})["id"]
    configuration = {"command": "true", "setup": [], "env": {}, "artifacts": []}
    stack.call("PUT", f"/api/v3/jobs/{job}/configuration", configuration)
    node = stack.call("POST", "/api/v3/nodes", {"name": "sse", "pool_id": pool, "max_parallel": 1})
    build: int = stack.call("POST", "/api/v3/builds/start", {"job_id": job})["id"]
    agent = Agent(await Connection.open(stack.port, node["agent_token"]))
    await agent.take_up()
    return build, agent


async def opened(stack: Stack, build: int, count: int) -> list[Reader]:
    loop = asyncio.get_running_loop()
    request = (
        f"GET /api/v3/builds/{build}/stream HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {stack.token}\r\n\r\n"
    ).encode()
    readers: list[Reader] = []
    while len(readers) < count:
        some = [Reader(request, keeps=not readers and not n) for n in range(min(OPENED_AT_ONCE, count - len(readers)))]
        for reader in some:
            await loop.create_connection(lambda reader=reader: reader, "127.0.0.1", stack.port)  # type: ignore[misc]
        await asyncio.gather(*(reader.began for reader in some))
        readers += some
    return readers


def tell(report: Report, readers: list[Reader], lines: int, warm: int) -> None:
    first = readers[0]
    assert first.kept is not None
    texts = [json.loads(message.removeprefix(b"data: ")) for message in bytes(first.kept).split(b"\n\n")[:-1]]
    said = [text["data"].split() for text in texts if text["type"] == "log"]
    assert [int(words[1]) for words in said] == list(range(len(said))), "lines are missing or out of order"
    sent = [int(words[2]) / 1e9 for words in said]
    alike = sum(reader.checksum == first.checksum for reader in readers)
    report.add("readers", len(readers), "readers")
    report.add("lines", lines, "lines")
    report.add("readers that got every line", alike if len(said) == lines else 0, "readers", at_least=len(readers))
    delays: Counter[int] = Counter()
    messages = 0
    for reader in readers:
        had = 0
        for at, has in reader.arrivals:
            delays.update(round((at - moment) * 1000) for moment in sent[max(had, warm) : has])
            had = has
        messages += len(reader.arrivals)
    for percent in (50, 99, 99.9):
        bound = 500 if percent == 99 else None
        report.add(f"from sent to arrived, p{percent:g}", of_counted(delays, percent), "ms", at_most=bound)
    report.add("from sent to arrived, max", max(delays), "ms")
    report.add("lines in a message", lines * len(readers) / messages, "lines")


def of_counted(counted: Counter[int], percent: float) -> int:
    left = counted.total() * percent / 100
    for value in sorted(counted):
        left -= counted[value]
        if left <= 0:
            return value
    return max(counted)


async def most(processes: list[psutil.Process]) -> int:
    """The most memory that they had together until this is cancelled."""
    found = 0
    try:
        while True:
            found = max(found, rss(processes))
            await asyncio.sleep(SAMPLE_S)
    except asyncio.CancelledError:
        return found


def rss(processes: list[psutil.Process]) -> int:
    return sum(process.memory_info().rss for process in processes)


def cpu_s(processes: list[psutil.Process]) -> float:
    return sum(sum(process.cpu_times()[:2]) for process in processes)


async def ticks(per_s: float, seconds: float) -> AsyncIterator[None]:
    began = time.perf_counter()
    for number in range(int(per_s * seconds)):
        await asyncio.sleep(max(0.0, began + number / per_s - time.perf_counter()))
        yield


def main() -> int:
    parser = argparse.ArgumentParser(description="Readers of one build's stream.")
    parser.add_argument("--readers", type=int, default=1_000)
    parser.add_argument("--lines", type=int, default=200, help="lines a second")
    parser.add_argument("--seconds", type=float, default=30)
    options = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(FILES, hard), hard))
    report = Report("sse")
    with running_stack(agent=False) as stack:
        uvloop.run(measure(stack, options.readers, options.lines, options.seconds, report))
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
