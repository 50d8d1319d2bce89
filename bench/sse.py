"""Measures how fast the lines of one running build reach many readers of its stream: `./dev bench sse`.

An agent sends a few lines at a time, at a fixed rate. Each line contains the time at which it was sent. A delay is the
time from the sending of a line to its arrival at one reader. All readers run in one process on the server's machine, so
the figures include the cost of reading.
"""

import argparse
import asyncio
import json
import resource
import sys
import time
import zlib
from collections import Counter
from typing import Any, cast

import psutil
import uvloop

from bench.support.http import Connection
from bench.support.load import read_cpu_s, ticks
from bench.support.report import Report
from bench.support.stack import Stack, running_stack

BATCH_LINES = 10
"""Number of lines in one request of the agent."""
OPEN_BATCH = 50
"""Number of connections that are opened at the same time."""
HEARTBEAT_S = 10.0
"""Seconds between two heartbeats of the agent. This is well below the silence after which the agent would lose its
build.
"""
WARM_UP_S = 3.0
END_TIMEOUT_S = 30.0
"""Seconds that the readers have to receive the remaining lines after the build has finished."""
SAMPLE_S = 0.25
"""Seconds between two readings of the server's memory."""
MAX_OPEN_FILES = 10_000
SESSION = "bench-sse"


class Reader(asyncio.Protocol):
    """One connection. Parses the chunks of the answer and records how many messages had arrived at which time."""

    def __init__(self, request: bytes, *, stores_body: bool) -> None:
        self._request = request
        self._unread = b""
        self._has_head = False
        self._last = b""
        self.body = bytearray() if stores_body else None
        self.started = asyncio.get_running_loop().create_future()
        self.ended = asyncio.get_running_loop().create_future()
        self.messages = 0
        self.checksum = 0
        self.arrivals: list[tuple[float, int]] = []
        """(time, number of messages so far)"""

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
            self.started.set_result(None)
        while (line := data.find(b"\r\n", start)) >= 0:
            size = int(data[start:line], 16)
            if line + size + 4 > len(data):
                break
            self._take_chunk(data[line + 2 : line + 2 + size])
            start = line + size + 4
        self._unread = data[start:]

    def connection_lost(self, exc: Exception | None) -> None:
        for future in (self.started, self.ended):
            if not future.done():
                future.set_exception(ConnectionError("the server closed the connection"))

    def _take_chunk(self, chunk: bytes) -> None:
        if not chunk:
            self.ended.set_result(None)
            return
        self.checksum = zlib.crc32(chunk, self.checksum)
        self.messages += chunk.count(b"\n\n") + (self._last == b"\n" and chunk.startswith(b"\n"))
        self._last = b"" if chunk.endswith(b"\n\n") else chunk[-1:]
        self.arrivals.append((time.time(), self.messages))
        if self.body is not None:
            self.body += chunk


class Agent:
    """An agent that accepts one build and writes its log without running anything."""

    def __init__(self, connection: Connection) -> None:
        self._connection = connection
        self._build: dict[str, Any] = {}
        self._sent = 0
        self._heartbeat_at = time.monotonic()

    async def accept_build(self) -> None:
        hello = {"version": "1", "platform": "linux", "hostname": "bench", "cpu_cores": 2, "ram_gb": 4.0, "running": []}
        await self._call("POST", "/api/v3/agent/connect", hello | {"session": SESSION})
        while not self._build:
            message = await self._call("GET", f"/api/v3/agent/next?session={SESSION}&free=1")
            self._build = message["build"] if message else {}
        await self._post("started", {})

    async def write(self, lines: int) -> None:
        texts = [[int(time.time() * 1000), f"{self._sent + n} {time.time_ns()} {'.' * 30}"] for n in range(lines)]
        await self._post("log", {"offset": self._sent, "lines": texts})
        self._sent += lines
        if time.monotonic() - self._heartbeat_at > HEARTBEAT_S:
            await self._send_heartbeat()

    async def finish(self) -> None:
        await self._post("finished", {"exit_code": 0, "log_lines": self._sent})

    async def _send_heartbeat(self) -> None:
        self._heartbeat_at = time.monotonic()
        gauges = {"cpu_pct": 0, "ram_pct": 0, "disk_free_gb": 1, "uptime_s": 1}
        running = [[self._build["id"], self._build["attempt"]]]
        await self._call("POST", "/api/v3/agent/heartbeat", {"session": SESSION, "running": running, **gauges})

    async def _post(self, step: str, body: object) -> None:
        path = f"/api/v3/agent/builds/{self._build['id']}/{step}?attempt={self._build['attempt']}"
        await self._call("POST", path, body)

    async def _call(self, method: str, path: str, body: object = None) -> Any:
        content = b"" if body is None else json.dumps(body).encode()
        status, _, answer = await self._connection.send(self._connection.prepare(method, path, content))
        assert status in (200, 204), answer
        return json.loads(answer) if answer else None


async def measure(stack: Stack, count: int, per_s: int, seconds: float, report: Report) -> None:
    build, agent = await start_build(stack)
    server = [psutil.Process(stack.pids[name]) for name in ("serve", "project", "dispatch", "work")]
    idle = read_rss(server)
    readers = await open_readers(stack, build, count)
    memory = asyncio.create_task(track_peak_rss(server))
    began = read_cpu_s(server)
    async for _ in ticks(per_s / BATCH_LINES, WARM_UP_S + seconds):
        await agent.write(BATCH_LINES)
    spent = read_cpu_s(server) - began
    await agent.finish()
    async with asyncio.timeout(END_TIMEOUT_S):
        await asyncio.gather(*(reader.ended for reader in readers))
    memory.cancel()
    add_figures(report, readers, int((WARM_UP_S + seconds) * per_s), int(WARM_UP_S * per_s))
    report.add("peak server memory above idle", (await memory - idle) / 2**20, "MB", at_most=250)
    report.add("CPU of the server", 100 * spent / (WARM_UP_S + seconds), "% of a core")


async def start_build(stack: Stack) -> tuple[int, Agent]:
    """Returns a running build and the agent that writes its log."""
    project = stack.create_project("sse")
    pool = stack.create_pool(project)
    job = stack.create_job("sse", "true", project_id=project, node_pool_id=pool)
    node = stack.call("POST", "/api/v3/nodes", {"name": "sse", "pool_id": pool, "max_parallel": 1})
    build: int = stack.call("POST", "/api/v3/builds/start", {"job_id": job})["id"]
    agent = Agent(await Connection.open(stack.port, node["agent_token"]))
    await agent.accept_build()
    return build, agent


async def open_readers(stack: Stack, build: int, count: int) -> list[Reader]:
    loop = asyncio.get_running_loop()
    request = (
        f"GET /api/v3/builds/{build}/stream HTTP/1.1\r\nHost: 127.0.0.1\r\nAuthorization: Bearer {stack.token}\r\n\r\n"
    ).encode()
    readers: list[Reader] = []
    while len(readers) < count:
        some = [
            Reader(request, stores_body=not readers and not n) for n in range(min(OPEN_BATCH, count - len(readers)))
        ]
        for reader in some:
            await loop.create_connection(lambda reader=reader: reader, "127.0.0.1", stack.port)  # type: ignore[misc]
        await asyncio.gather(*(reader.started for reader in some))
        readers += some
    return readers


def add_figures(report: Report, readers: list[Reader], lines: int, warm: int) -> None:
    """Adds figures about completeness and delays to the report. The first `warm` of the `lines` count only for
    completeness.
    """
    first = readers[0]
    assert first.body is not None
    texts = [json.loads(message.removeprefix(b"data: ")) for message in bytes(first.body).split(b"\n\n")[:-1]]
    words_of_lines = [text["data"].split() for text in texts if text["type"] == "log"]
    assert [int(words[1]) for words in words_of_lines] == list(range(len(words_of_lines))), (
        "lines are missing or out of order"
    )
    sent = [int(words[2]) / 1e9 for words in words_of_lines]
    alike = sum(reader.checksum == first.checksum for reader in readers)
    report.add("readers", len(readers), "readers")
    report.add("lines", lines, "lines")
    report.add(
        "readers that got every line", alike if len(words_of_lines) == lines else 0, "readers", at_least=len(readers)
    )
    delays: Counter[int] = Counter()
    messages = 0
    for reader in readers:
        seen = 0
        for at, arrived in reader.arrivals:
            delays.update(round((at - moment) * 1000) for moment in sent[max(seen, warm) : arrived])
            seen = arrived
        messages += len(reader.arrivals)
    for percent in (50, 99, 99.9):
        bound = 500 if percent == 99 else None
        report.add(f"from sent to arrived, p{percent:g}", percentile_of_counts(delays, percent), "ms", at_most=bound)
    report.add("from sent to arrived, max", max(delays), "ms")
    report.add("lines per message", lines * len(readers) / messages, "lines")


def percentile_of_counts(counts: Counter[int], percent: float) -> int:
    left = counts.total() * percent / 100
    for value in sorted(counts):
        left -= counts[value]
        if left <= 0:
            return value
    return max(counts)


async def track_peak_rss(processes: list[psutil.Process]) -> int:
    """Samples the resident memory of all processes together until cancelled. Then returns the peak in bytes."""
    found = 0
    try:
        while True:
            found = max(found, read_rss(processes))
            await asyncio.sleep(SAMPLE_S)
    except asyncio.CancelledError:
        return found


def read_rss(processes: list[psutil.Process]) -> int:
    return sum(process.memory_info().rss for process in processes)


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure many readers of one build's stream.")
    parser.add_argument("--readers", type=int, default=1_000)
    parser.add_argument("--lines", type=int, default=200, help="lines a second")
    parser.add_argument("--seconds", type=float, default=30)
    options = parser.parse_args()
    _, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (min(MAX_OPEN_FILES, hard), hard))
    report = Report("sse")
    with running_stack(agent=False) as stack:
        uvloop.run(measure(stack, options.readers, options.lines, options.seconds, report))
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
