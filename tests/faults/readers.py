"""Readers of event streams. They are cut off or disconnect, reconnect, and continue after the last id they received."""

import asyncio
import json
import random
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from tests.faults.client import RETRY_DELAY_S, RetryingClient


@dataclass
class Reader(ABC):
    """Messages that a reader received over all its connections."""

    last_event_id: str | None = field(default=None, init=False)
    done: bool = field(default=False, init=False)
    connections: int = field(default=0, init=False)

    @property
    @abstractmethod
    def path(self) -> str: ...

    @abstractmethod
    def receive(self, message: dict[str, Any]) -> None: ...


@dataclass
class BuildReader(Reader):
    build_id: int
    messages: list[tuple[int, int, str]] = field(default_factory=list)
    """Attempt, line number and text of each log line."""
    status: str | None = None

    @property
    def path(self) -> str:
        return f"/api/v3/builds/{self.build_id}/stream?ids=true"

    def receive(self, message: dict[str, Any]) -> None:
        match message["type"]:
            case "log":
                attempt, _, number = str(self.last_event_id).partition(":")
                self.messages.append((int(attempt), int(number), message["data"]))
            case "status":
                self.status = message["data"]
            case "done":
                self.done = True


@dataclass
class EventReader(Reader):
    """Reads the feed of all events, from the first position on, without an end."""

    last_event_id: str | None = field(default="0", init=False)
    events: list[tuple[int, str]] = field(default_factory=list)
    """Position and type of each received event that no check has taken yet."""

    def take_events(self, position: int) -> list[tuple[int, str]]:
        """Removes the events up to a position and returns them."""
        taken = [item for item in self.events if item[0] <= position]
        self.events = [item for item in self.events if item[0] > position]
        return taken

    @property
    def path(self) -> str:
        return "/api/v3/events/stream"

    def receive(self, message: dict[str, Any]) -> None:
        assert self.last_event_id == str(message["position"]), f"{message} came with the id {self.last_event_id}"
        self.events.append((message["position"], message["type"]))


async def read_stream(client: RetryingClient, reader: Reader, rng: random.Random) -> None:
    """Reads a stream until its last message, reconnecting whenever the connection ends."""
    while not reader.done:
        reader.connections += 1
        disconnects_after = rng.randrange(5, 400) if rng.random() < 0.5 else None
        try:
            async with client.stream(reader.path, reader.last_event_id) as answer:
                if answer.status == 200:
                    await _read(answer, reader, disconnects_after)
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError):
            pass  # cut off: the next connection continues after the last id
        await asyncio.sleep(RETRY_DELAY_S)


async def _read(answer: aiohttp.ClientResponse, reader: Reader, disconnects_after: int | None) -> None:
    count = 0
    async for message in _parse_messages(answer, reader):
        reader.receive(message)
        count += 1
        if reader.done or count == disconnects_after:
            return


async def _parse_messages(answer: aiohttp.ClientResponse, reader: Reader) -> AsyncIterator[dict[str, Any]]:
    """Yields the decoded messages of a stream. Sets the reader's `last_event_id` before each."""
    event_id = data = ""
    async for raw in answer.content:
        line = raw.decode().rstrip("\n")
        if line.startswith("id: "):
            event_id = line[4:]
        elif line.startswith("data: "):
            data = line[6:]
        elif not line:
            reader.last_event_id = event_id or reader.last_event_id
            if data:
                yield json.loads(data)
            data = ""
