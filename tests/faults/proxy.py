"""TCP proxy in front of one or more servers of the same kind, which can cut, delay, stall and refuse connections."""

import asyncio
import contextlib
import random
from collections.abc import Sequence
from pathlib import Path

CHUNK = 64 * 1024

Address = int | Path
"""Port of this machine, or unix socket."""


class Proxy:
    """Forwards each connection to a random server that accepts it. Runs in the event loop that starts it."""

    def __init__(self, addresses: Sequence[Address], rng: random.Random) -> None:
        self.port = 0
        """Port that it listens on; 0 for a unix socket."""
        self.delay_s = 0.0
        """Delay of each chunk, in both directions."""
        self.refuses = False
        self.answers_to_lose = 0
        """How many of the next answers are not forwarded: their connections are closed instead."""
        self._addresses = list(addresses)
        self._rng = rng
        self._is_flowing = asyncio.Event()
        self._is_flowing.set()
        self._to_clients: set[asyncio.StreamWriter] = set()
        self._to_servers: set[asyncio.StreamWriter] = set()
        self._tasks: set[asyncio.Task[None]] = set()
        self._server: asyncio.Server | None = None

    async def start(self, listen: str | Path = "127.0.0.1") -> None:
        """Listens on a free port of an address, or on a unix socket."""
        if isinstance(listen, Path):
            self._server = await asyncio.start_unix_server(self._serve, listen, backlog=1024)
        else:
            self._server = await asyncio.start_server(self._serve, listen, 0, backlog=1024)
            self.port = self._server.sockets[0].getsockname()[1]

    async def close(self) -> None:
        assert self._server is not None, "it was started"
        self._server.close()
        self.reset()
        self.cut()
        for task in self._tasks:
            task.cancel()
        await asyncio.gather(*self._tasks, return_exceptions=True)

    def reset(self) -> None:
        """Ends all misbehaviour: data flows at once and new connections are accepted."""
        self.delay_s, self.refuses, self.answers_to_lose = 0.0, False, 0
        self._is_flowing.set()

    def stall(self) -> None:
        """Forwards nothing until `reset`."""
        self._is_flowing.clear()

    def half_close(self) -> None:
        """Stalls, and resets the connections to the servers: clients believe that they are still connected."""
        self.stall()
        for writer in self._to_servers:
            writer.transport.abort()

    def cut(self) -> None:
        """Resets every connection, on both sides."""
        for writer in self._to_clients | self._to_servers:
            writer.transport.abort()

    async def _serve(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        assert task is not None, "a coroutine runs in a task"
        self._tasks.add(task)
        try:
            with contextlib.suppress(OSError):
                await self._forward(reader, writer)
        finally:
            self._tasks.discard(task)
            writer.transport.abort()

    async def _forward(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        connected = None if self.refuses else await self._connect()
        if connected is None:
            return
        server_reader, server_writer = connected
        self._to_clients.add(writer)
        self._to_servers.add(server_writer)
        pumps = [
            asyncio.create_task(self._pump(reader, server_writer, answers=False)),
            asyncio.create_task(self._pump(server_reader, writer, answers=True)),
        ]
        try:
            await asyncio.wait(pumps, return_when=asyncio.FIRST_COMPLETED)
            if not writer.transport.is_closing():
                await self._is_flowing.wait()  # a stalled proxy does not forward the end of a connection either
        finally:
            for pump in pumps:
                pump.cancel()
            await asyncio.gather(*pumps, return_exceptions=True)
            self._to_clients.discard(writer)
            self._to_servers.discard(server_writer)
            server_writer.transport.abort()

    async def _connect(self) -> tuple[asyncio.StreamReader, asyncio.StreamWriter] | None:
        for address in self._rng.sample(self._addresses, len(self._addresses)):
            with contextlib.suppress(OSError):
                if isinstance(address, Path):
                    return await asyncio.open_unix_connection(address)
                return await asyncio.open_connection("127.0.0.1", address)
        return None

    async def _pump(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter, *, answers: bool) -> None:
        with contextlib.suppress(OSError):
            while data := await reader.read(CHUNK):
                if self.delay_s:
                    await asyncio.sleep(self.delay_s)
                await self._is_flowing.wait()
                if answers and self.answers_to_lose:
                    self.answers_to_lose -= 1
                    return
                writer.write(data)
                await writer.drain()
            # Let written data arrive before the connection ends.
            await asyncio.sleep(0)
            if writer.can_write_eof() and not writer.is_closing():
                writer.write_eof()
                await asyncio.sleep(0.05)
