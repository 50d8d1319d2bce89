"""Repositories at each kind of host: what is read there, the statuses that are set, and how failures are told apart.

GitHub, GitLab and both kinds of Bitbucket are a fake of ours (tests.support.source_host) over a real repository; plain
git is the program itself.
"""

import asyncio
import base64
from collections.abc import AsyncIterator, Callable
from datetime import UTC, datetime, timedelta
from pathlib import Path

import jwt
import pytest
from cryptography.hazmat.primitives.asymmetric.rsa import generate_private_key
from cryptography.hazmat.primitives.serialization import Encoding, NoEncryption, PrivateFormat

from integrations.addresses import parse_networks
from integrations.outgoing import HttpOutgoing
from integrations.scm.bitbucket import BitbucketRepository
from integrations.scm.bitbucket_data_center import DataCenterRepository
from integrations.scm.git import GitRepository as PlainGit
from integrations.scm.github import GitHubRepository
from integrations.scm.github_apps import GitHubApps, check_private_key
from integrations.scm.gitlab import GitLabRepository
from integrations.source_ports import (
    CloneCredentials,
    CommitState,
    CommitStatus,
    SourceFailure,
    SourceForbidden,
    SourceHost,
    SourceNotFound,
    SourceUnavailable,
)
from tests.integrations.receiving import Receiver, receiving
from tests.support.git_repository import GitRepository
from tests.support.source_host import FakeSourceHost, fake_source_host

pytestmark = pytest.mark.anyio

TOKEN = "good-token"
LOOPBACK = parse_networks("127.0.0.0/8")
Make = Callable[[HttpOutgoing, FakeSourceHost, str, str], SourceHost]
"""Makes an adapter; the texts are repository and token."""


def _github(outgoing: HttpOutgoing, host: FakeSourceHost, repo: str, token: str) -> SourceHost:
    async def fetch_token() -> str:
        return token

    return GitHubRepository(outgoing, f"{host.url}/github", repo, fetch_token)


HOSTS: dict[str, Make] = {
    "github": _github,
    "gitlab": lambda outgoing, host, repo, token: GitLabRepository(outgoing, f"{host.url}/gitlab", repo, token),
    "cloud": lambda outgoing, host, repo, token: BitbucketRepository(outgoing, repo, token, f"{host.url}/cloud/2.0"),
    "center": lambda outgoing, host, repo, token: DataCenterRepository(outgoing, f"{host.url}/center", repo, token),
}


def _git(outgoing: HttpOutgoing, host: FakeSourceHost, repo: str, token: str) -> SourceHost:
    folder = host.repository.path.with_name(f"{repo.rpartition('/')[2]}.git")
    return PlainGit(outgoing, str(folder), "", folder, asyncio.Semaphore(1))


every_host = pytest.mark.parametrize("make", [*HOSTS.values(), _git], ids=[*HOSTS, "git"])
every_api = pytest.mark.parametrize("make", HOSTS.values(), ids=HOSTS)


@pytest.fixture(name="repository", scope="module")
def _repository(tmp_path_factory: pytest.TempPathFactory) -> GitRepository:
    return GitRepository(tmp_path_factory.mktemp("git") / "shop.git")


@pytest.fixture(name="host")
async def _host(repository: GitRepository) -> AsyncIterator[FakeSourceHost]:
    async with fake_source_host(repository) as host:
        yield host


@pytest.fixture(name="outgoing")
async def _outgoing() -> AsyncIterator[HttpOutgoing]:
    async with HttpOutgoing(LOOPBACK) as outgoing:
        yield outgoing


def _status(state: CommitState = "passed") -> CommitStatus:
    return CommitStatus(state, "testhide/Smoke", "x" * 200, "https://ci.example.com/1")


@every_host
async def test_branches_begin_with_the_prefix(make: Make, outgoing: HttpOutgoing, host: FakeSourceHost) -> None:
    source = make(outgoing, host, "acme/shop", TOKEN)
    assert sorted(await source.fetch_branches("", 50)) == ["main", "older", "release/3.13", "release/3.14", "relics"]
    assert sorted(await source.fetch_branches("rel", 50)) == ["release/3.13", "release/3.14", "relics"]
    assert await source.fetch_branches("release/3.14", 50) == ["release/3.14"]
    assert await source.fetch_branches("ics", 50) == []
    assert len(await source.fetch_branches("", 2)) == len(await source.fetch_branches("re", 2)) == 2


@every_host
async def test_commits_are_the_newest(make: Make, outgoing: HttpOutgoing, host: FakeSourceHost) -> None:
    source = make(outgoing, host, "acme/shop", TOKEN)
    found = await source.fetch_commits(None, 20)
    assert [one.sha for one in found] == host.repository.commits[::-1]
    assert (found[0].message, found[0].author) == ("Commit 2", "Alice")
    assert found[2].date == datetime(2025, 6, 10, 7, 30, tzinfo=UTC)
    assert [one.message for one in await source.fetch_commits("release/3.14", 1)] == ["Commit 2"]
    assert [one.message for one in await source.fetch_commits("older", 20)] == ["Commit 0"]
    with pytest.raises(SourceNotFound, match="branch"):
        await source.fetch_commits("nope", 1)


@every_host
async def test_a_file_comes_with_the_commit(make: Make, outgoing: HttpOutgoing, host: FakeSourceHost) -> None:
    source = make(outgoing, host, "acme/shop", TOKEN)
    newest, oldest = host.repository.commits[-1], host.repository.commits[0]
    for ref, commit, content in (
        ("main", newest, b"number: 2\n"),
        ("release/3.14", newest, b"number: 2\n"),
        (oldest, oldest, b"number: 0\n"),
    ):
        assert await source.fetch_file("ci/job.yml", ref) == (commit, content)
    for path, ref in (("ci/none.yml", "main"), ("ci/job.yml", "nope")):
        with pytest.raises(SourceNotFound):
            await source.fetch_file(path, ref)


@every_host
async def test_a_tag_does_not_replace_the_branch_of_its_name(
    make: Make, outgoing: HttpOutgoing, host: FakeSourceHost
) -> None:
    oldest, newest = host.repository.commits[0], host.repository.commits[-1]
    for tag in ("main", "v1"):
        host.repository.git("tag", "--force", tag, oldest)
    source = make(outgoing, host, "acme/shop", TOKEN)
    try:
        assert await source.fetch_file("ci/job.yml", "main") == (newest, b"number: 2\n")
        assert await source.fetch_file("ci/job.yml", "v1") == (oldest, b"number: 0\n")
        assert [one.sha for one in await source.fetch_commits("main", 1)] == [newest]
    finally:
        host.repository.git("tag", "--delete", "main", "v1")


@every_api
async def test_statuses_are_set(make: Make, outgoing: HttpOutgoing, host: FakeSourceHost) -> None:
    source, commit = make(outgoing, host, "acme/shop", TOKEN), host.repository.commits[0]
    states: tuple[CommitState, ...] = ("queued", "running", "passed", "failed", "aborted")
    for state in states:
        await source.set_status(commit, _status(state))
    assert {at for at, _ in host.statuses} == {commit}
    sent = [body for _, body in host.statuses]
    assert len({body["state"] for body in sent}) >= 3
    assert all(len(body["description"]) == 140 and body["description"].endswith("…") for body in sent)
    assert {body.get("target_url") or body.get("url") for body in sent} == {"https://ci.example.com/1"}
    assert {body.get("context") or body["name"] for body in sent} == {"testhide/Smoke"}
    with pytest.raises(SourceFailure, match=r"[Cc]ommit"):
        await source.set_status("1" * 40, _status())


async def test_a_status_that_gitlab_has_already_is_set(outgoing: HttpOutgoing, host: FakeSourceHost) -> None:
    source = HOSTS["gitlab"](outgoing, host, "acme/shop", TOKEN)
    for _ in range(2):
        await source.set_status(host.repository.commits[0], _status("running"))
    assert len(host.statuses) == 1


@every_host
async def test_a_check_finds_nothing_wrong(make: Make, outgoing: HttpOutgoing, host: FakeSourceHost) -> None:
    await make(outgoing, host, "acme/shop", TOKEN).check()
    assert host.statuses == []


@every_host
async def test_a_check_finds_that_the_repository_is_missing(
    make: Make, outgoing: HttpOutgoing, host: FakeSourceHost
) -> None:
    with pytest.raises(SourceNotFound, match=r"has no (such )?repository"):
        await make(outgoing, host, "acme/gone", TOKEN).check()


@every_api
async def test_a_check_finds_that_the_token_is_wrong(make: Make, outgoing: HttpOutgoing, host: FakeSourceHost) -> None:
    with pytest.raises(SourceForbidden, match="refuses the token"):
        await make(outgoing, host, "acme/shop", "bad-token").check()


@every_api
async def test_a_check_finds_that_statuses_are_not_allowed(
    make: Make, outgoing: HttpOutgoing, host: FakeSourceHost
) -> None:
    host.may_set_statuses = False
    with pytest.raises(SourceForbidden, match="does not let this token set statuses"):
        await make(outgoing, host, "acme/shop", TOKEN).check()


@every_api
async def test_a_host_that_takes_no_more_says_when_it_will(
    make: Make, outgoing: HttpOutgoing, host: FakeSourceHost
) -> None:
    soon = str(int((datetime.now(UTC) + timedelta(minutes=5)).timestamp()))
    for refusal, low, high in (
        ((429, {"Retry-After": "30"}, b""), 30, 30),
        ((403, {"Retry-After": "60"}, b"{}"), 60, 60),
        ((403, {"X-RateLimit-Remaining": "0", "X-RateLimit-Reset": soon}, b"{}"), 290, 300),
        ((503, {"Retry-After": "7"}, b"<html>"), 7, 7),
        ((429, {}, b""), 0, 0),
    ):
        host.refusal = refusal
        with pytest.raises(SourceUnavailable) as failed:
            await make(outgoing, host, "acme/shop", TOKEN).fetch_branches("", 1)
        assert low <= failed.value.retry_after_s <= high


@every_api
async def test_a_failure_names_host_and_reason_without_the_token(
    make: Make, outgoing: HttpOutgoing, host: FakeSourceHost
) -> None:
    name = "bitbucket.org" if make is HOSTS["cloud"] else "127.0.0.1"
    for status, body, kind, reason in (
        (403, b'{"message": "no good-token may\\u0000 do\\nthis."}', SourceForbidden, "“no *** may dothis”"),
        (301, b"", SourceNotFound, "has moved"),
        (500, b'{"errors": [{"message": "oops"}]}', SourceUnavailable, "“oops”"),
        (400, b'{"error": {"message": "bad"}}', SourceFailure, "“bad”"),
        (200, b"<html>welcome", SourceFailure, "not its API"),
        (200, b'{"values": 5}', SourceFailure, "not its API"),
        (200, b"[" + b" " * 5_000_000, SourceFailure, "more than"),
    ):
        host.refusal = (status, {}, body)
        with pytest.raises(kind) as failed:
            await make(outgoing, host, "acme/shop", TOKEN).fetch_branches("", 1)
        message = str(failed.value)
        assert name in message
        assert reason in message
        assert TOKEN not in message


@every_api
async def test_a_host_that_is_not_called(make: Make, host: FakeSourceHost) -> None:
    async with HttpOutgoing() as closed:
        with pytest.raises(SourceFailure, match="is not called: it must begin with https://"):
            await make(closed, host, "acme/shop", TOKEN).fetch_branches("", 1)


async def test_tokens_of_bitbucket_may_have_a_user(outgoing: HttpOutgoing, host: FakeSourceHost) -> None:
    host.tokens = {f"Basic {base64.b64encode(b'ann@example.com:secret').decode()}"}
    for name in ("cloud", "center"):
        source = HOSTS[name](outgoing, host, "acme/shop", "ann@example.com:secret")
        await source.check()
        assert await source.clone_credentials() == CloneCredentials("ann@example.com", "secret")


async def test_credentials_of_checkouts(outgoing: HttpOutgoing, host: FakeSourceHost) -> None:
    users = {"github": "x-access-token", "gitlab": "oauth2", "cloud": "x-token-auth", "center": "x-token-auth"}
    for name, make in HOSTS.items():
        found = await make(outgoing, host, "acme/shop", TOKEN).clone_credentials()
        assert found == CloneCredentials(users[name], TOKEN)
        assert TOKEN not in repr(found)
    assert await _git(outgoing, host, "acme/shop", "").clone_credentials() is None
    assert await PlainGit(
        outgoing, "https://git.example.com/x", "t", None, asyncio.Semaphore(1)
    ).clone_credentials() == CloneCredentials("git", "t")


def private_key() -> str:
    key = generate_private_key(65537, 2048)
    return key.private_bytes(Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()).decode()


def _answer_with_token(receiver: Receiver, token: str, minutes: int) -> None:
    until = (datetime.now(UTC) + timedelta(minutes=minutes)).isoformat()
    receiver.answers.append((201, {}, f'{{"token": "{token}", "expires_at": "{until}"}}'.encode()))


async def test_a_github_app_gets_a_token_and_keeps_it(outgoing: HttpOutgoing) -> None:
    key = private_key()
    async with receiving() as receiver:
        url, apps = receiver.url.removesuffix("/hook"), GitHubApps(outgoing)
        _answer_with_token(receiver, "first", 60)
        _answer_with_token(receiver, "second", 60)
        for _ in range(2):
            assert await apps.fetch_token(url, 7, 8, key) == "first"
        assert await apps.fetch_token(url, 7, 9, key) == "second"
    assert [one.path for one in receiver.requests] == [
        f"/api/v3/app/installations/{number}/access_tokens" for number in (8, 9)
    ]
    signed = receiver.requests[0].headers["Authorization"].removeprefix("Bearer ")
    claims = jwt.decode(signed, options={"verify_signature": False})
    assert claims["iss"] == "7"
    assert 0 < claims["exp"] - claims["iat"] <= 600


async def test_a_token_that_is_about_to_expire_is_not_used(outgoing: HttpOutgoing) -> None:
    key = private_key()
    async with receiving() as receiver:
        url, apps = receiver.url.removesuffix("/hook"), GitHubApps(outgoing)
        _answer_with_token(receiver, "first", 9)
        _answer_with_token(receiver, "second", 60)
        await apps.fetch_token(url, 7, 8, key)
        assert await apps.fetch_token(url, 7, 8, key) == "second"


def test_the_key_of_an_app_must_be_one() -> None:
    check_private_key(private_key())
    for text in ("ghp_x", "-----BEGIN PRIVATE KEY-----\nAAAA\n-----END PRIVATE KEY-----"):
        with pytest.raises(ValueError):
            check_private_key(text)


async def test_git_goes_only_where_it_may(host: FakeSourceHost) -> None:
    async with HttpOutgoing() as closed:
        for url, reason in (("https://127.0.0.1/x", "this machine"), ("http://example.com/x", "https://")):
            with pytest.raises(SourceFailure, match=reason):
                await PlainGit(closed, url, "", None, asyncio.Semaphore(1)).fetch_branches("", 1)


async def test_git_takes_the_address_that_was_checked_and_no_redirect(tmp_path: Path) -> None:
    """The name resolves to the receiver only here: git would not find it by itself."""

    async def resolve(name: str) -> list[str]:
        assert name == "git.example.com"
        return ["127.0.0.1"]

    async with receiving() as receiver, HttpOutgoing(LOOPBACK, resolve=resolve) as outgoing:
        source = PlainGit(
            outgoing, f"http://git.example.com:{receiver.port}/x.git", "ann:s3cret", None, asyncio.Semaphore(1)
        )
        receiver.answers.append((302, {"Location": f"{receiver.url}/elsewhere"}, b""))
        with pytest.raises(SourceFailure) as failed:
            await source.fetch_branches("", 1)
        receiver.status = 401
        with pytest.raises(SourceForbidden, match="refuses the token"):
            await source.fetch_branches("", 1)
    assert [one.path for one in receiver.requests] == ["/x.git/info/refs?service=git-upload-pack"] * 2
    assert receiver.requests[0].headers["Authorization"] == f"Basic {base64.b64encode(b'ann:s3cret').decode()}"
    assert "s3cret" not in str(failed.value)


async def test_git_ends_in_time(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("integrations.scm.git.TIME_LIMIT_S", 0.3)
    async with receiving() as receiver, HttpOutgoing(LOOPBACK) as outgoing:
        receiver.hold = asyncio.Event()
        source = PlainGit(outgoing, receiver.url, "", None, asyncio.Semaphore(1))
        with pytest.raises(SourceUnavailable) as failed:
            await source.fetch_branches("", 1)
        receiver.hold.set()
    assert failed.value.is_timeout
