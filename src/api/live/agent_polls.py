"""The long polls of agents: who waits, what they are told, and how a poll ends.

An agent has one poll open. A new one takes the place of the old at once, since an agent that has room again cuts its
poll and asks anew; and a poll whose connection is gone takes no message, so that none is lost with it. What is lost
on its way all the same is said again: each message has a receipt that the next poll gives back.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

from cachetools import LRUCache
from litestar import Request

from api.http.services import Services
from api.live.disconnect import hanging_up
from domain.builds import BUILD, AnyBuild, Assigned, Finished
from domain.node_commands import NODE_COMMAND, notification_subject
from domain.quarantine import QUARANTINE
from projections import builds
from projections.node_commands import find_unanswered
from store.clock import utcnow
from store.postgres.notifications import AGENT_NOTIFICATIONS, wait_for

POLL_S = 20
REMEMBERED = 50_000


class Said(NamedTuple):
    """A message that an agent should hear once."""

    session: str
    about: str
    attempt: int
    type: str

    @property
    def receipt(self) -> str:
        return f"{self.type}:{self.about}:{self.attempt}"


class AgentPolls:
    """Of one API process."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._delivered: LRUCache[Said, bool] = LRUCache(REMEMBERED)
        self._last: LRUCache[str, Said] = LRUCache(REMEMBERED)
        """By session: what its last poll was answered with."""
        self._open: dict[int, tuple[asyncio.Event, asyncio.Event]] = {}
        """By node: set the first to end the poll, the second to wake it."""

    async def next(
        self, request: Request[Any, Any, Any], node_id: int, session: str, free: int, receipt: str | None
    ) -> dict[str, Any] | None:
        """The next message for the agent; None after a while, or when the poll was cut or replaced.

        `receipt`: of the last message that arrived, empty before the first; None from an agent that gives none.
        """
        services = self._services
        woken = self._lost(session, receipt)
        """What there is news about: `1025` is a build, `cmd-7` a command."""
        news, unsure = asyncio.Event(), asyncio.Event()
        unsure.set()

        def on_wake(payload: str | None) -> None:
            node, _, about = (payload or "").partition(":")
            if payload is None:
                unsure.set()
            if payload is None or node == str(node_id):
                woken.update([about] if about else [])
                news.set()

        # Register, then look, then wait: what is assigned in between is in one of the two.
        with services.listener.subscribed(AGENT_NOTIFICATIONS, on_wake):
            async with self._only_poll(node_id, news) as replaced, hanging_up(request, news) as cut:
                ends = asyncio.get_running_loop().time() + POLL_S
                while not replaced.is_set():
                    if cut.is_set():
                        await services.gauges.record_poll(node_id, session, 0, polling=False)
                        return None
                    news.clear()
                    if unsure.is_set():
                        unsure.clear()
                        woken.update(await self._waiting_for(node_id))
                        # Also again: a database that crashed has forgotten who asks.
                        await services.gauges.record_poll(node_id, session, free, polling=True)
                    while woken and not replaced.is_set() and not cut.is_set():
                        message, said = await self._message(woken.pop(), node_id, session)
                        if message is None or said in self._delivered or replaced.is_set() or cut.is_set():
                            continue
                        self._delivered[said] = True
                        self._last[session] = said
                        return message | {"receipt": said.receipt}
                    if replaced.is_set() or cut.is_set():
                        continue
                    left = ends - asyncio.get_running_loop().time()
                    if left <= 0:
                        return None
                    await wait_for(news, left)
                return None

    def end_all(self) -> None:
        """Their agents ask again, another process if this one ends."""
        for end, news in self._open.values():
            end.set()
            news.set()

    async def _waiting_for(self, node_id: int) -> set[str]:
        """What the log has for the agent."""
        services = self._services
        await services.waiter.wait(await services.log.read_head())
        async with services.pool.connection() as connection:
            assigned = await builds.fetch_assigned_ids(connection, node_id)
            return {*map(str, assigned), *map(notification_subject, await find_unanswered(connection, node_id))}

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

    def _lost(self, session: str, receipt: str | None) -> set[str]:
        """What the agent's last poll was answered about, if that did not arrive."""
        last = self._last.pop(session, None)
        if last is None or receipt in (None, last.receipt):
            return set()
        self._delivered.pop(last, None)
        return {last.about}

    async def _message(self, about: str, node_id: int, session: str) -> tuple[dict[str, Any] | None, Said]:
        """What the agent should hear about a build or a command, and how that is noted."""
        kind, _, number = about.rpartition("-")
        if kind:
            message, attempt = await self._command(int(number), node_id), 0
        else:
            build = await self._services.log.load_state(BUILD.at(int(number)))
            message, attempt = await self._about(build, node_id), build.attempt if build is not None else 0
        return message, Said(session, about, attempt, str((message or {}).get("type")))

    async def _command(self, command_id: int, node_id: int) -> dict[str, Any] | None:
        command = await self._services.log.load_state(NODE_COMMAND.at(command_id))
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
            quarantine = (await self._services.log.load_state(QUARANTINE.at(queued.job_id))).active(utcnow())
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
