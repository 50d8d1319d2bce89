"""A TCP proxy on the way to one or more ends of the same kind, which can be told to misbehave."""

import asyncio
import contextlib
import random
from collections.abc import Sequence
from pathlib import Path

CHUNK = 64 * 1024

End = int | Path
"""A port of this machine, or a unix socket."""


class Proxy:
    """Takes each connection to one of the ends that answer. All of it in the loop that starts it."""

    def __init__(self, ends: Sequence[End], rng: random.Random) -> None:
        self.port = 0
        self.delay_s = 0.0
        """Of every piece, in both directions."""
        self.refuses = False
        self.lost = 0
        """How many answers, from now on, come to the far end of the connection and no further."""
        self._ends = list(ends)
        self._rng = rng
        self._flows = asyncio.Event()
        self._flows.set()
        self._open: set[asyncio.StreamWriter] = set()
        self._open_there: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def start(self) -> None:
        self._server = await asyncio.start_server(self._serve, "127.0.0.1", 0, backlog=1024)
        self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        assert self._server is not None, "it was started"
        self._server.close()
        self.behave()
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def behave(self) -> None:
        self.delay_s, self.refuses, self.lost = 0.0, False, 0
        self._flows.set()

    def hold(self) -> None:
        """Nothing passes until it behaves again."""
        self._flows.clear()

    def leave(self) -> None:
        """Nothing passes either, and the far ends are cut: whoever asked believes that it is still connected."""
        self.hold()
        for writer in self._open_there:
            writer.transport.abort()

    def cut(self) -> None:
        """Every connection, with a reset."""
        for writer in self._open | self._open_there:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None, "it runs in one"
        self._tasks.add(task)
        try:
            with contextlib.suppress(OSError):
                await self._pass_on(reader, writer)
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    async def _pass_on(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        there = None if self.refuses else await self._connect()
        if there is None:
            return
        its_reader, its_writer = there
        self._open.add(writer)
        self._open_there.add(its_writer)
        ways = [
            asyncio.create_task(self._pump(reader, its_writer, answers=False)),
            asyncio.create_task(self._pump(its_reader, writer, answers=True)),
        ]
        try:
            await asyncio.wait(ways, return_when=asyncio.FIRST_COMPLETED)
            if not writer.transport.is_closing():
                await self._flows.wait()  # an end, too, is only told then
        finally:
            for way in ways:
                way.cancel()
            await asyncio.gather(*ways, return_exceptions=True)
            self._open.discard(writer)
            self._open_there.discard(its_writer)
            its_writer.transport.abort()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        for end in self._rng.sample(self._ends, len(self._ends)):
            with contextlib.suppress(OSError):
                if isinstance(end, Path):
                    return await asyncio.open_unix_connection(end)
                return await asyncio.open_connection("127.0.0.1", end)
        return None

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answers: bool) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK):
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                await self._flows.wait()
                if answers and self.lost:
                    self.lost -= 1
                    return
                writer.write(data)
                await writer.drain()
            # What was written still has to arrive.
            await asyncio.sleep(0)
            if writer.can_write_eof() and not writer.is_closing():
                writer.write_eof()
                await asyncio.sleep(0.05)
