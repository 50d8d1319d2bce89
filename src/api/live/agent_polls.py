"""Answers the long polls of agents with messages for them: builds to run or stop, and commands.

An agent has one open poll. A new poll ends the previous one at once, since an agent polls anew when its number of free
slots changes. A poll whose connection is closed, or whose session has ended, gets no message. Each message has a
`receipt`, a text that the agent sends with its next poll. If it sends another receipt, the message was lost, and the
server sends the message again.
"""

import asyncio
import contextlib
from collections.abc import AsyncIterator
from typing import Any, NamedTuple

import structlog
from cachetools import LRUCache
from litestar import Request

from api.http.services import Services
from api.live.shards import find_shard
from api.live.stream_clients import watching_disconnect
from commands.build_caches import find_cache_scopes
from commands.builds import FinishBuild, describe_no_repository, needs_checkout
from commands.handler import CommandContext
from commands.scm import find_build_endpoint
from commands.untrusted_builds import may_have_token
from domain.build_groups import BUILD_GROUP
from domain.builds import BUILD, AnyBuild, Assigned, BuildQueued, Finished
from domain.core.errors import Conflict, NotFound
from domain.jobs import JOB, CheckoutOptions
from domain.node_commands import NODE_COMMAND, notification_subject
from domain.nodes import NODE
from domain.quarantine import QUARANTINE
from domain.scm import ScmEndpoint
from integrations.source_ports import SourceFailure, SourceHosts
from projections import builds
from projections.node_commands import find_unanswered
from store.clock import utcnow
from store.postgres.cancellation import wait_for
from store.postgres.notifications import AGENT_NOTIFICATIONS

log = structlog.get_logger()

POLL_TIMEOUT_S = 20
"""Seconds after which a poll without a message is answered with 204, before proxies close its connection. The
dispatcher takes a poll for closed after `POLL_EXPIRY_S` (`workers/dispatch/dispatcher.py`), which must be longer than
POLL_TIMEOUT_S.
"""
MAX_REMEMBERED = 50_000
"""Largest number of messages, of sessions and of nodes that a process remembers: which messages it has sent, the last
message of each session, and the last poll of each node.
"""
CREDENTIALS_TIMEOUT_S = 3.0
"""Longest time in seconds that the message about a build waits for a token from the host of its repository. Other
messages for the agent wait meanwhile.
"""


class SentMessage(NamedTuple):
    """Identity of a message to an agent. An agent gets each message once in a session, and again only if the message
    was lost on the way.
    """

    session: str
    subject: str
    """Subject of the message: `1025` is a build, `cmd-7` a command."""
    attempt: int
    type: str

    @property
    def receipt(self) -> str:
        return f"{self.type}:{self.subject}:{self.attempt}"


class AgentPolls:
    """All open polls of one API process. The application's state has this object as `polls`."""

    def __init__(self, services: Services) -> None:
        self._services = services
        self._sent: LRUCache[SentMessage, bool] = LRUCache(MAX_REMEMBERED)
        self._last: LRUCache[str, SentMessage] = LRUCache(MAX_REMEMBERED)
        """Session -> the message with which the session's last poll was answered."""
        self._open: dict[int, tuple[asyncio.Event, asyncio.Event]] = {}
        """Node id -> two events of the node's open poll: one that ends the poll, and one that wakes it."""
        self._recorded: LRUCache[int, int] = LRUCache(MAX_REMEMBERED)
        """Node id -> id of that poll of the node which this process last recorded in the gauges. When the connection of
        any poll of the node closes, the poll with this id is recorded as ended. If the closed poll was not recorded
        yet, this is an earlier poll.
        """

    async def next(
        self, request: Request[Any, Any, Any], node_id: int, session: str, free: int, receipt: str | None
    ) -> dict[str, Any] | None:
        """Returns the next message for the agent. Returns None if there is none within `POLL_TIMEOUT_S`, if the
        connection is closed, if the session ends, or if the agent polls anew.

        `receipt` is the receipt of the last message that the agent got: empty if it has got none yet, and None if the
        agent sends no receipts.
        """
        services = self._services
        subjects = self._take_lost(session, receipt)
        """Subjects about which there may be a message for the agent."""
        changed, must_look_up = asyncio.Event(), asyncio.Event()
        must_look_up.set()

        def on_wake(payload: str | None) -> None:
            node, _, changed_subject = (payload or "").partition(":")
            if payload is None:
                must_look_up.set()
            if payload is None or node == str(node_id):
                subjects.update([changed_subject] if changed_subject else [])
                changed.set()

        # Subscribe before the look-up: an assignment in between is then notified or found.
        with services.listener.subscribed(AGENT_NOTIFICATIONS, on_wake):
            async with self._only_poll(node_id, changed) as replaced, watching_disconnect(request, changed) as is_gone:
                deadline = asyncio.get_running_loop().time() + POLL_TIMEOUT_S
                is_recorded = False
                while not replaced.is_set():
                    if is_gone.is_set():
                        if node_id in self._recorded:
                            await services.gauges.end_poll(node_id, session, self._recorded[node_id])
                        return None
                    changed.clear()
                    if not await self._has_session(node_id, session):
                        return None
                    if must_look_up.is_set():
                        must_look_up.clear()
                        subjects.update(await self._find_subjects(node_id))
                        # Recorded again after each reconnection: a database that crashed has lost the record of polls.
                        is_recorded = False
                    while subjects and not replaced.is_set() and not is_gone.is_set():
                        content, message = await self._message(subjects.pop(), node_id, session)
                        if content is None or message in self._sent or replaced.is_set() or is_gone.is_set():
                            continue
                        if not await self._has_session(node_id, session):
                            return None
                        self._sent[message] = True
                        self._last[session] = message
                        return content | {"receipt": message.receipt}
                    if replaced.is_set() or is_gone.is_set():
                        continue
                    if not is_recorded:
                        # A poll that is answered at once asks for no build: the dispatcher would assign another one.
                        self._recorded[node_id] = await services.gauges.record_poll(node_id, session, free)
                        is_recorded = True
                    left = deadline - asyncio.get_running_loop().time()
                    if left <= 0:
                        return None
                    await wait_for(changed, left)
                return None

    def end_all(self) -> None:
        """Ends all polls of this process, which is about to stop. The agents then poll another process."""
        for replaced, changed in self._open.values():
            replaced.set()
            changed.set()

    async def _has_session(self, node_id: int, session: str) -> bool:
        """Returns whether `session` is still the session of the node, as the log says. A session ends when the node is
        deleted, when another agent takes over the node, and when the token of the node's agent becomes invalid.
        """
        node = await self._services.log.load_state(NODE.at(node_id))
        return node is not None and node.session == session

    async def _find_subjects(self, node_id: int) -> set[str]:
        """Returns the subjects of the messages that may wait for the agent: builds (`1025`) and commands (`cmd-7`).
        First waits until the read models have caught up.
        """
        services = self._services
        await services.waiter.wait(await services.log.read_head())
        async with services.pool.connection() as connection:
            assigned = await builds.fetch_assigned_ids(connection, node_id)
            return {*map(str, assigned), *map(notification_subject, await find_unanswered(connection, node_id))}

    @contextlib.asynccontextmanager
    async def _only_poll(self, node_id: int, changed: asyncio.Event) -> AsyncIterator[asyncio.Event]:
        """Ends the node's earlier poll. Yields an event that is set when a later poll of the node begins."""
        replaced = asyncio.Event()
        self._end(node_id)
        self._open[node_id] = replaced, changed
        try:
            yield replaced
        finally:
            if self._open.get(node_id) == (replaced, changed):
                del self._open[node_id]

    def _end(self, node_id: int) -> None:
        """Ends the open poll of a node, if there is one. The agent then polls anew."""
        for event in self._open.get(node_id, ()):
            event.set()

    def _take_lost(self, session: str, receipt: str | None) -> set[str]:
        """Returns a set with the subject of the message that answered the session's last poll, if that message was
        lost. Otherwise returns an empty set.
        """
        last = self._last.pop(session, None)
        if last is None or receipt in (None, last.receipt):
            return set()
        self._sent.pop(last, None)
        return {last.subject}

    async def _message(self, subject: str, node_id: int, session: str) -> tuple[dict[str, Any] | None, SentMessage]:
        """Returns the message about a build or command, and the message's identity. The message is None if there is
        nothing for the agent to do.
        """
        kind, _, number = subject.rpartition("-")
        if kind:
            content, attempt = await self._command_message(int(number), node_id), 0
        else:
            build = await self._services.log.load_state(BUILD.at(int(number)))
            content, attempt = await self._build_message(build, node_id), build.attempt if build is not None else 0
        return content, SentMessage(session, subject, attempt, str((content or {}).get("type")))

    async def _command_message(self, command_id: int, node_id: int) -> dict[str, Any] | None:
        command = await self._services.log.load_state(NODE_COMMAND.at(command_id))
        if command is None or command.node_id != node_id or command.result is not None:
            return None
        message: dict[str, Any] = {"type": command.kind, "command_id": command_id}
        if command.kind == "execute":
            message |= {"command": command.command, "timeout_s": command.timeout_s}
        return message

    async def _build_message(self, build: AnyBuild | None, node_id: int) -> dict[str, Any] | None:
        match build:
            case Assigned() if build.node_id == node_id:
                endpoint = await find_build_endpoint(self._services.log, build.queued)
                if needs_checkout(build.queued) and not build.queued.repository and endpoint is None:
                    await self._fail_checkout(build)
                    return None
                return {"type": "run", "build": await self._run_parameters(build, endpoint)}
            case Finished(status="aborted") if build.node_id == node_id:
                return {"type": "stop", "build_id": build.build_id, "attempt": build.attempt, "reason": "stopped"}
            case _:
                return None

    async def _fail_checkout(self, build: Assigned) -> None:
        """Ends a build that a change started: its repository is gone, since the SCM endpoint was removed while the
        build was queued.
        """
        detail = f"{describe_no_repository(build.queued.job_id)} any more."
        command = FinishBuild(build.build_id, build.node_id, build.attempt, None, "checkout_failed", detail)
        with contextlib.suppress(Conflict, NotFound):  # the build was stopped, or another poll has just ended it
            await self._services.handler.execute(command, CommandContext("system:dispatch"))
        # The next poll tells the dispatcher that the slot of this build is free again.
        self._end(build.node_id)

    async def _run_parameters(self, build: Assigned, endpoint: ScmEndpoint | None) -> dict[str, Any]:
        queued = build.queued
        quarantine = (await self._services.log.load_state(QUARANTINE.at(queued.job_id))).active(utcnow())
        is_skipped = queued.quarantine_mode == "skip"
        node = await self._services.log.load_state(NODE.at(build.node_id)) if queued.untrusted else None
        configuration = queued.configuration
        scopes = find_cache_scopes(queued, await self._services.log.load_state(JOB.at(queued.job_id)))
        unseal = self._services.secrets.unseal
        return {
            "id": queued.build_id,
            "attempt": build.attempt,
            "job_id": queued.job_id,
            "job_name": queued.job_title,
            "project_id": queued.project_id,
            "repository": queued.repository or (None if endpoint is None else endpoint.clone_url),
            "repository_credentials": None
            if endpoint is None or not may_have_token(queued, node)
            else await fetch_credentials(self._services.source_hosts, endpoint),
            "branch": queued.branch,
            "commit_sha": build.commit_sha or await self._find_group_commit(queued) or queued.commit_sha,
            "setup": configuration.setup,
            "command": configuration.command,
            "env": configuration.env,
            "secrets": {name: unseal(sealed) for name, sealed in configuration.secrets.items()},
            "missing_secrets": [
                name
                for name in configuration.needed_secrets
                if name not in configuration.secrets and name not in configuration.env
            ],
            "artifacts": configuration.artifacts,
            "shell": configuration.shell or "sh",
            "checkout": configuration.checkout or CheckoutOptions(),
            "caches": configuration.caches,
            "cache_scope": scopes.primary,
            "fallback_cache_scope": scopes.fallback,
            "shared_cache_bytes": self._services.cache_limit,
            "timeout_s": queued.timeout_minutes * 60,
            "test_ids": queued.test_ids,
            "shard": await find_shard(self._services, queued),
            "quarantine": quarantine if is_skipped else None,
            "ignore_failures_of": None if is_skipped else quarantine,
        }

    async def _find_group_commit(self, queued: BuildQueued) -> str | None:
        """Returns the commit that another build of the same build group has checked out; None if no build of the group
        has checked out a commit yet.
        """
        if queued.group_id is None:
            return None
        return (await self._services.log.load_state(BUILD_GROUP.at(queued.group_id))).commit_sha


async def fetch_credentials(hosts: SourceHosts, endpoint: ScmEndpoint) -> dict[str, str] | None:
    """Returns `username` and `password` with which git signs in at the endpoint's host. Returns None if the host needs
    no sign-in.

    Also returns None after a failure, which the function logs. The checkout then fails with git's message. A host that
    takes longer than CREDENTIALS_TIMEOUT_S counts as a failure.
    """
    try:
        async with asyncio.timeout(CREDENTIALS_TIMEOUT_S):
            found = await hosts.open(endpoint).clone_credentials()
    except Exception as error:  # whatever is wrong about this endpoint, the agent gets the builds of other projects
        is_known = isinstance(error, (SourceFailure, TimeoutError))
        log.warning(
            "a checkout has no token",
            scm_endpoint=endpoint.scm_endpoint_id,
            error=str(error) or "the host gave no answer in time",
            exc_info=not is_known,
        )
        return None
    return None if found is None else {"username": found.username, "password": found.password}
