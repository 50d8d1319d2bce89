"""The long polls of agents: who waits, what they are told, and how a poll ends.

An agent has one poll open. A new one takes the place of the old at once, since an agent that has room again cuts its
poll and asks anew; and a poll whose connection is gone takes no message, so that none is lost with it. What is lost
all the same comes back: an assignment that nobody takes up is requeued, a stop is repeated by the answers to
heartbeats.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any

from cachetools import LRUCache
from litestar import Request

from api.services import Services
from commands.node_commands import subject
from domain.builds import BUILD, AnyBuild, Assigned, Finished
from domain.node_commands import NODE_COMMAND
from domain.quarantine import QUARANTINE
from projections import builds
from projections.node_commands import unanswered
from store.codec import utcnow
from store.listen import WAKES

POLL_S = 20
REMEMBERED = 50_000


class AgentPolls:
    """Of one API process."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._delivered: LRUCache[tuple[str, str, int, str], bool] = LRUCache(REMEMBERED)
        self._open: dict[int, tuple[asyncio.Event, asyncio.Event]] = {}
        """By node: set the first to end the poll, the second to wake it."""

    async def next(
        self, request: Request[Any, Any, Any], node_id: int, session: str, free: int
    ) -> dict[str, Any] | None:
        """The next message for the agent; None after a while, or when the poll was cut or replaced."""
        services = self._services
        woken: set[str] = set()
        """What there is news about: `1025` is a build, `cmd-7` a command."""
        news = asyncio.Event()

        def on_wake(payload: str | None) -> None:
            node, _, about = (payload or "").partition(":")
            if payload is None or node == str(node_id):
                woken.update([about] if about else [])
                news.set()

        # Register, then look, then wait: what is assigned in between is in one of the two.
        with services.listener.subscribed(WAKES, on_wake):
            async with self._only_poll(node_id, news) as replaced, _cut(request, news) as cut:
                await services.waiter.wait(await services.log.head())
                async with services.pool.connection() as connection:
                    woken.update(map(str, await builds.assigned_to(connection, node_id)))
                    woken.update(map(subject, await unanswered(connection, node_id)))
                await services.gauges.polls(node_id, session, free, polling=True)
                ends = asyncio.get_running_loop().time() + POLL_S
                while not replaced.is_set():
                    if cut.is_set():
                        await services.gauges.polls(node_id, session, 0, polling=False)
                        return None
                    news.clear()
                    while woken:
                        if (message := await self._message(woken.pop(), node_id, session)) is not None:
                            return message
                    left = ends - asyncio.get_running_loop().time()
                    if left <= 0:
                        return None
                    with contextlib.suppress(TimeoutError):
                        await asyncio.wait_for(news.wait(), left)
                return None

    @contextlib.asynccontextmanager
    async def _only_poll(self, node_id: int, news: asyncio.Event) -> AsyncIterator[asyncio.Event]:
        replaced = asyncio.Event()
        if earlier := self._open.get(node_id):
            end_earlier, earlier_news = earlier
            end_earlier.set()
            earlier_news.set()
        self._open[node_id] = replaced, news
        try:
            yield replaced
        finally:
            if self._open.get(node_id) == (replaced, news):
                del self._open[node_id]

    async def _message(self, about: str, node_id: int, session: str) -> dict[str, Any] | None:
        """What the agent should hear about a build or a command, once."""
        kind, _, number = about.rpartition("-")
        if kind:
            message, attempt = await self._command(int(number), node_id), 0
        else:
            build = await self._services.log.state(BUILD.at(int(number)))
            message, attempt = await self._about(build, node_id), build.attempt if build is not None else 0
        if message is None:
            return None
        note = (session, about, attempt, str(message["type"]))
        if note in self._delivered:
            return None
        self._delivered[note] = True
        return message

    async def _command(self, command_id: int, node_id: int) -> dict[str, Any] | None:
        command = await self._services.log.state(NODE_COMMAND.at(command_id))
        if command is None or command.node_id != node_id or command.result is not None:
            return None
        message: dict[str, Any] = {"type": command.kind, "command_id": command_id}
        if command.kind == "execute":
            message |= {"command": command.command, "timeout_s": command.timeout_s}
        return message

    async def _about(self, build: AnyBuild | None, node_id: int) -> dict[str, Any] | None:
        match build:
            case Assigned() if build.node_id == node_id:
                return {"type": "run", "build": await self._run(build)}
            case Finished(status="aborted") if build.node_id == node_id:
                return {"type": "stop", "build_id": build.build_id, "attempt": build.attempt, "reason": "stopped"}
            case _:
                return None

    async def _run(self, build: Assigned) -> dict[str, Any]:
        queued = build.queued
        quarantine = None
        if queued.quarantine_mode == "skip":
            quarantine = (await self._services.log.state(QUARANTINE.at(queued.job_id))).active(utcnow())
        configuration = queued.configuration
        unseal = self._services.secrets.unseal
        return {
            "id": queued.build_id,
            "attempt": build.attempt,
            "job_id": queued.job_id,
            "job_name": queued.job_title,
            "project_id": queued.project_id,
            "repository": queued.repository,
            "branch": queued.branch,
            "commit_sha": queued.commit_sha,
            "setup": configuration.setup,
            "command": configuration.command,
            "env": configuration.env,
            "secrets": {name: unseal(sealed) for name, sealed in configuration.secrets.items()},
            "artifacts": configuration.artifacts,
            "timeout_s": queued.timeout_minutes * 60,
            "test_ids": queued.test_ids,
            "quarantine": quarantine,
        }


@contextlib.asynccontextmanager
async def _cut(request: Request[Any, Any, Any], news: asyncio.Event) -> AsyncIterator[asyncio.Event]:
    """Set when the caller's connection is gone."""
    cut = asyncio.Event()

    async def watch() -> None:
        while (await request.receive())["type"] != "http.disconnect":
            continue
        cut.set()
        news.set()

    watching = asyncio.create_task(watch())
    try:
        yield cut
    finally:
        watching.cancel()
