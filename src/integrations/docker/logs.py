"""Reads the logs of containers, each in a separate process (`integrations.docker.log_reader`)."""

import asyncio
import contextlib
import sys
from asyncio.subprocess import PIPE, Process
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import asynccontextmanager

import msgspec

from integrations.container_ports import DockerUnavailable
from integrations.docker.hosts import DockerSetup

MAX_READERS = 20
"""Largest number of logs that a process reads at the same time. Each reader takes some 40 MB."""
READ_LIMIT_S = 15.0
"""Longest time in seconds to read a log that is not followed."""
MAX_BATCH = 256 * 1024
"""Largest number of bytes of a batch of lines."""
MAX_ERROR = 2_000
END_TIMEOUT_S = 5.0


class DockerLogs:
    """Implements `ContainerLogs`."""

    def __init__(self, setup: DockerSetup) -> None:
        self._setup = setup
        self._readers = 0

    @asynccontextmanager
    async def read(
        self, host: str, agent_id: str, tail: int, *, follow: bool = False
    ) -> AsyncIterator[AsyncGenerator[list[bytes], None]]:
        self._setup.url_of(host)
        if self._readers >= MAX_READERS:
            raise DockerUnavailable(f"{MAX_READERS} logs of containers are being read; try again later")
        self._readers += 1
        try:
            process = await asyncio.create_subprocess_exec(
                sys.executable, "-m", "integrations.docker.log_reader", stdin=PIPE, stdout=PIPE, stderr=PIPE
            )
            try:
                assert process.stdin is not None
                # A struct of the same shape as the reader's, whose module would load the client library.
                request = {"setup": self._setup, "host": host, "agent_id": agent_id, "tail": tail, "follow": follow}
                process.stdin.write(msgspec.json.encode(request))
                process.stdin.close()
                yield _read_batches(process, host, None if follow else READ_LIMIT_S)
            finally:
                await _end(process)
        finally:
            self._readers -= 1


async def _read_batches(process: Process, host: str, limit_s: float | None) -> AsyncGenerator[list[bytes], None]:
    assert process.stdout is not None
    assert process.stderr is not None
    rest = b""
    try:
        async with asyncio.timeout(limit_s):
            while chunk := await process.stdout.read(MAX_BATCH):
                *lines, rest = (rest + chunk).split(b"\n")
                if lines:
                    yield lines
            if await process.wait() != 0:
                problem = (await process.stderr.read(MAX_ERROR)).decode(errors="replace")
                raise DockerUnavailable(problem or f"the log on Docker host {host} cannot be read")
    except TimeoutError:
        raise DockerUnavailable(f"Docker host {host} does not answer within {READ_LIMIT_S:.0f} s") from None


async def _end(process: Process) -> None:
    with contextlib.suppress(ProcessLookupError):
        process.kill()
    with contextlib.suppress(TimeoutError):
        async with asyncio.timeout(END_TIMEOUT_S):
            await process.wait()
