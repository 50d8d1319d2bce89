"""Answers that a source code host gives on purpose, to stop or confuse the server that asks it."""

import asyncio
from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path

import pytest

from integrations.addresses import parse_networks
from integrations.outgoing import HttpOutgoing
from integrations.scm.bitbucket_data_center import DataCenterRepository
from integrations.scm.git import GitRepository as PlainGit
from integrations.scm.github_apps import GitHubApps
from integrations.scm.rest import utc_date
from integrations.source_ports import SourceFailure, SourceNotFound, SourceUnavailable
from tests.integrations.receiving import receiving
from tests.integrations.test_source_hosts import private_key
from tests.support.git_repository import GitRepository

pytestmark = pytest.mark.anyio

LOOPBACK = parse_networks("127.0.0.0/8")
KEY = private_key()
NESTED = b"[" * 100_000


@pytest.mark.parametrize(
    ("status", "headers", "body"),
    [
        (201, {}, b'{"token": "x", "expires_at": "2030-01-01T00:00:00"}'),
        (201, {}, b'{"token": "two\\nlines", "expires_at": "2030-01-01T00:00:00Z"}'),
        (201, {}, b'{"token": ' + NESTED),
        (403, {"x-ratelimit-remaining": "0", "x-ratelimit-reset": "²"}, b"{}"),
        (403, {}, b'{"message": ' + NESTED),
        (403, {}, b'{"message": ' + b"9" * 5_000 + b"}"),
    ],
)
async def test_whatever_a_host_answers_is_a_source_failure(
    status: int, headers: Mapping[str, str], body: bytes
) -> None:
    async with receiving() as receiver, HttpOutgoing(LOOPBACK) as outgoing:
        receiver.answers.append((status, dict(headers), body))
        with pytest.raises(SourceFailure):
            await GitHubApps(outgoing).fetch_token(receiver.url, 7, 8, KEY)


@pytest.mark.parametrize(("expires_at", "is_kept"), [("0001-01-01T00:00:00Z", False), ("9999-12-31T23:59:59Z", True)])
async def test_a_token_is_kept_for_an_hour_at_most(
    monkeypatch: pytest.MonkeyPatch, expires_at: str, is_kept: bool
) -> None:
    async with receiving() as receiver, HttpOutgoing(LOOPBACK) as outgoing:
        apps = GitHubApps(outgoing)
        for token in ("first", "second", "third"):
            body = f'{{"token": "{token}", "expires_at": "{expires_at}"}}'
            receiver.answers.append((201, {}, body.encode()))
        assert await apps.fetch_token(receiver.url, 7, 8, KEY) == "first"
        assert (await apps.fetch_token(receiver.url, 7, 8, KEY) == "first") == is_kept
        monkeypatch.setattr("integrations.scm.github_apps.MIN_REMAINING_LIFETIME", timedelta(minutes=61))
        assert await apps.fetch_token(receiver.url, 7, 8, KEY) != "first"


async def test_a_date_that_no_calendar_has_is_a_source_failure() -> None:
    dates: tuple[int | str, ...] = (10**18, -(10**17), "", "10000-01-01T00:00:00Z", "0001-01-01T00:00:00+14:00")
    for date in dates:
        with pytest.raises(SourceFailure, match="date outside"):
            utc_date("a", date)
    body = b'{"values": [{"id": "a", "message": "", "authorTimestamp": 999999999999999999, "author": {}}]}'
    async with receiving() as receiver, HttpOutgoing(LOOPBACK) as outgoing:
        receiver.answers.append((200, {}, body))
        with pytest.raises(SourceFailure, match="date outside"):
            await DataCenterRepository(outgoing, receiver.url, "acme/shop", "t").fetch_commits(None, 1)


async def test_a_large_file_needs_little_memory_of_the_server(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    repository = GitRepository(tmp_path / "shop.git")
    repository.write("large", "x" * 3_000_000)
    async with HttpOutgoing() as outgoing:
        source = PlainGit(outgoing, str(repository.path), "", repository.path, asyncio.Semaphore(1))
        assert (await source.fetch_file("ci/job.yml", "main"))[1] == b"number: 2\n"
        with pytest.raises(SourceNotFound, match="no file of 1,048,576 bytes"):
            await source.fetch_file("large", "main")
        monkeypatch.setattr("integrations.scm.git.LIMITS", "ulimit -f 1")
        with pytest.raises(SourceFailure, match="cannot be read"):
            await source.fetch_file("ci/job.yml", "main")


async def test_no_more_programs_than_slots_run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.setattr("integrations.scm.git.TIME_LIMIT_S", 0.3)
    slots = asyncio.Semaphore(1)
    async with HttpOutgoing() as outgoing, slots:
        with pytest.raises(SourceUnavailable):
            await PlainGit(outgoing, str(tmp_path), "", tmp_path, slots).fetch_branches("", 1)
