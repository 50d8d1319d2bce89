"""Readers of streams, who are cut off, leave by themselves, come back and go on after the last id that they have."""

import asyncio
import json
import random
from abc import ABC, abstractmethod
from collections.abc import AsyncIterator
from dataclasses import dataclass, field
from typing import Any

import aiohttp

from tests.faults.calling import PAUSE_S, Caller


@dataclass
class Heard(ABC):
    """What a reader got, over all of its connections."""

    last: str | None = field(default=None, init=False)
    done: bool = field(default=False, init=False)
    connections: int = field(default=0, init=False)

    @property
    @abstractmethod
    def path(self) -> str: ...

    @abstractmethod
    def take(self, message: dict[str, Any]) -> None: ...


@dataclass
class HeardOfBuild(Heard):
    build_id: int
    messages: list[tuple[int, int, str]] = field(default_factory=list)
    """Attempt, number of the line, what it said."""
    status: str | None = None

    @property
    def path(self) -> str:
        return f"/api/v3/builds/{self.build_id}/stream?ids=true"

    def take(self, message: dict[str, Any]) -> None:
        match message["type"]:
            case "log":
                attempt, _, number = str(self.last).partition(":")
                self.messages.append((int(attempt), int(number), message["data"]))
            case "status":
                self.status = message["data"]
            case "done":
                self.done = True


@dataclass
class HeardOfAll(Heard):
    """Reads everything that happens, from the beginning and for ever."""

    last: str | None = field(default="0", init=False)
    events: list[tuple[int, str]] = field(default_factory=list)
    """Position and type, of those that were not looked at yet."""

    def split(self, position: int) -> tuple[list[tuple[int, str]], list[tuple[int, str]]]:
        """Up to there, and what follows."""
        return [item for item in self.events if item[0] <= position], [
            item for item in self.events if item[0] > position
        ]

    @property
    def path(self) -> str:
        return "/api/v3/events/stream"

    def take(self, message: dict[str, Any]) -> None:
        assert self.last == str(message["position"]), f"{message} came with the id {self.last}"
        self.events.append((message["position"], message["type"]))


async def listen(caller: Caller, heard: Heard, rng: random.Random) -> None:
    """Until it is done."""
    while not heard.done:
        heard.connections += 1
        leaves_after = rng.randrange(5, 400) if rng.random() < 0.5 else None
        try:
            async with caller.stream(heard.path, heard.last) as answer:
                if answer.status == 200:
                    await _read(answer, heard, leaves_after)
        except (aiohttp.ClientError, OSError, TimeoutError, ValueError):
            pass  # cut: it goes on after what it has
        await asyncio.sleep(PAUSE_S)


async def _read(answer: aiohttp.ClientResponse, heard: Heard, leaves_after: int | None) -> None:
    count = 0
    async for message in _messages(answer, heard):
        heard.take(message)
        count += 1
        if heard.done or count == leaves_after:
            return


async def _messages(answer: aiohttp.ClientResponse, heard: Heard) -> AsyncIterator[dict[str, Any]]:
    """Each notes its id."""
    event_id = data = ""
    async for raw in answer.content:
        line = raw.decode().rstrip("\n")
        if line.startswith("id: "):
            event_id = line[4:]
        elif line.startswith("data: "):
            data = line[6:]
        elif not line:
            heard.last = event_id or heard.last
            if data:
                yield json.loads(data)
            data = ""
