"""Reactions during the faults: deletions of jobs with many artifacts, and mails to users who are invited."""

import asyncio
import contextlib
import os
import random
import sys
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import psycopg

from domain.artifacts import blob_key
from domain.core.events import Recorded
from domain.jobs import JobDeleted
from domain.reactions import ReactionCancelled
from domain.users import PasswordLinkIssued
from tests.faults.client import RetryingClient
from tests.faults.injector import Fault, FaultInjector
from tests.faults.stack import Stack
from tests.support.mail_server import MailServer

DELETION = "delete_a_jobs_logs_and_artifacts"
ARTIFACTS = {"": 300, "wipe": 300, "kill": 3_000, "cancel": 3_000}
"""Artifacts of a job by what disturbs its deletion. A few thousand take seconds to delete."""
BUSY = "451 try again later"
TIMEOUT_S = 100.0
"""Time until a deletion is due or cancelled: a busy machine may take most of a minute to replace all processes."""
POLL_INTERVAL_S = 0.05

Disturbance = Literal["", "wipe", "kill", "cancel"]


@dataclass
class Deletion:
    """A job without builds but with many artifacts, which a user deletes."""

    job: int
    folder: Path
    disturbance: Disturbance

    @property
    def artifacts_left(self) -> int:
        return sum(1 for path in self.folder.rglob("*") if path.is_file())

    async def carry_out(self, client: RetryingClient, stack: Stack, injector: FaultInjector) -> bool:
        """Deletes the job and disturbs that. Returns whether the reaction was under way, or waited, at that time."""
        answer = await client.call("DELETE", f"/api/v3/jobs/{self.job}")
        assert answer.status in (200, 204, 404), answer  # 404: an earlier try was carried out
        if not self.disturbance:
            return False
        if self.disturbance == "wipe":
            await injector.inject(Fault(0, "wipe"))
        position = await self._wait_until_due(stack, is_leased=self.disturbance == "kill")
        if position is None:
            return False
        if self.disturbance == "kill":
            for name in stack.list_names("work"):
                stack.kill(name)
        elif self.disturbance == "cancel":
            return await self._cancel(stack, position)
        return True

    async def _wait_until_due(self, stack: Stack, *, is_leased: bool) -> int | None:
        """Returns the position of the deletion when its reaction is due, or None if it is done before that is seen."""
        query = (
            "SELECT notification_id, d.tries, d.tries IS NULL AND p.position >= notification_id FROM stored_events"
            " LEFT JOIN due_reactions d ON d.position = notification_id AND d.reaction = %(name)s"
            " JOIN reaction_positions p ON p.reaction = %(name)s"
            " WHERE originator_id = %(stream)s AND topic LIKE 'job.deleted%%'"
        )
        async with asyncio.timeout(TIMEOUT_S):
            while True:
                with contextlib.suppress(psycopg.OperationalError):
                    async with await psycopg.AsyncConnection.connect(
                        stack.settings.database_url, autocommit=True, connect_timeout=2
                    ) as connection:
                        cursor = await connection.execute(
                            query.encode(), {"name": DELETION, "stream": f"job-{self.job}"}
                        )
                        if (row := await cursor.fetchone()) is not None:
                            position, tries, is_done = row
                            if is_done:
                                return None
                            if tries is not None and tries >= is_leased:
                                return int(position)
                await asyncio.sleep(POLL_INTERVAL_S)

    async def _cancel(self, stack: Stack, position: int) -> bool:
        """Runs the operator's command until it has cancelled the reaction, or says that it is not due any more."""
        async with asyncio.timeout(TIMEOUT_S):
            while True:
                process = await asyncio.create_subprocess_exec(
                    *(sys.executable, "-P", "-m", "testhide", "reactions", "cancel", DELETION, str(position)),
                    *("--reason", "faults"),
                    env={**os.environ, "TESTHIDE_SETTINGS": str(stack.folder / "settings.json")},
                    stdout=asyncio.subprocess.DEVNULL,
                    stderr=asyncio.subprocess.DEVNULL,
                )
                if await process.wait() in (0, 2):
                    return process.returncode == 0
                await asyncio.sleep(POLL_INTERVAL_S)


@dataclass
class ReactionLoad:
    """All deletions and mails of a run, and what the log says about them."""

    client: RetryingClient
    stack: Stack
    injector: FaultInjector
    mails: MailServer
    counts: Counter[str] = field(default_factory=Counter)
    deletions: dict[int, Deletion] = field(default_factory=dict)
    """By the position of the job's deletion."""
    kept: Deletion | None = None
    """A job that nobody deletes."""
    _cancelled: list[int] = field(default_factory=list)
    _invited: set[int] = field(default_factory=set)
    _by_job: dict[int, Deletion] = field(default_factory=dict)

    async def make_job(self, project: int, name: str, disturbance: Disturbance = "") -> Deletion:
        answer = await self.client.call("POST", "/api/v3/jobs", {"name": name, "project_id": project})
        assert answer.status in (200, 201), answer
        job = int(answer.body["id"])
        blobs = self.stack.settings.blobs_folder
        assert blobs is not None, "the suite stores blobs on disk"
        deletion = self._by_job[job] = Deletion(job, blobs / f"jobs/{job}", disturbance)
        await asyncio.to_thread(_fill, blobs / blob_key(job, 1, 1), ARTIFACTS[disturbance])
        return deletion

    async def carry_out(self, rng: random.Random, token: str, deletion: Deletion | None) -> None:
        """Invites a user, and has a deletion carried out."""
        email = f"{token}@example.com"
        if rng.random() < 0.2:
            self.mails.refusals[email] = BUSY
        answer = await self.client.call("POST", "/api/v3/users", {"email": email, "role": "viewer"})
        assert answer.carried_out, answer
        self.counts["mails that were refused at first"] += email in self.mails.refusals
        if deletion is not None:
            was_met = await deletion.carry_out(self.client, self.stack, self.injector)
            self.counts["deletions"] += 1
            if deletion.disturbance:
                self.counts[f"deletions met by {deletion.disturbance}"] += was_met

    def note(self, events: Sequence[Recorded]) -> None:
        """Takes the events of a round."""
        for recorded in events:
            match recorded.event:
                case JobDeleted(job_id=job):
                    self.deletions[recorded.position] = self._by_job[job]
                case ReactionCancelled(position=position):
                    self._cancelled.append(position)
                case PasswordLinkIssued(user_id=user):
                    self._invited.add(user)
        self.mails.refusals.clear()

    def check(self) -> Iterator[str]:
        """Checks at the end, when no reaction is due any more, that all of them were carried out."""
        self.counts["deletions cancelled"] = len(self._cancelled)
        for position, deletion in self.deletions.items():
            cancelled, left = self._cancelled.count(position), deletion.artifacts_left
            if left and not cancelled:
                yield f"{left} artifacts of the deleted job {deletion.job} are left"
            if cancelled > (deletion.disturbance == "cancel"):
                yield f"the deletion of job {deletion.job} is cancelled {cancelled} times in the log"
        if self.kept is not None and self.kept.artifacts_left != ARTIFACTS[""]:
            yield f"of a job that nobody deleted {self.kept.artifacts_left} artifacts are left"
        keys: dict[str, set[str]] = {}
        for mail in self.mails.mails:
            keys.setdefault(str(mail["To"]), set()).add(str(mail["Message-ID"]))
        self.counts["mails"], self.counts["mails that came again"] = len(keys), len(self.mails.mails) - len(keys)
        if len(keys) != len(self._invited):
            yield f"{len(self._invited)} users were invited, and mails came to {len(keys)}"
        for address, ids in keys.items():
            if len(ids) > 1:
                yield f"{address} got {len(ids)} different mails for one invitation"


def _fill(first: Path, count: int) -> None:
    first.parent.mkdir(parents=True)
    first.write_bytes(b"x")
    for number in range(2, count + 1):
        os.link(first, first.with_name(str(number)))  # faster than files of their own
