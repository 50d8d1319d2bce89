"""Requests to GitHub hold to GitHub's own description of its API, and the answers of its examples are understood.

Needs Node.js and the packages that are locked beside this file.
"""

from collections.abc import AsyncIterator

import pytest

from integrations.addresses import parse_networks
from integrations.outgoing import HttpOutgoing
from integrations.scm.github import GitHubRepository
from integrations.scm.github_apps import GitHubApps
from integrations.source_ports import CommitState, CommitStatus, SourceFailure
from tests.integrations.test_source_hosts import private_key

pytestmark = [pytest.mark.real("node"), pytest.mark.anyio]

COMMIT = "6dcb09b5b57875f334f61aebed695e2e4193db5e"


@pytest.fixture(name="outgoing")
async def _outgoing() -> AsyncIterator[HttpOutgoing]:
    async with HttpOutgoing(parse_networks("127.0.0.0/8")) as outgoing:
        yield outgoing


async def _token() -> str:
    return "ghp_x"


async def test_what_is_read(github: str, outgoing: HttpOutgoing) -> None:
    source = GitHubRepository(outgoing, github, "octocat/Hello-World", _token)
    assert await source.fetch_branches("", 50) == ["master"]
    assert await source.fetch_branches("feature/", 50) == ["feature-a", "feature-b"]
    for branch in (None, "release/1.0"):
        (commit,) = await source.fetch_commits(branch, 20)
        assert (commit.sha, commit.message, commit.author) == (COMMIT, "Fix all the bugs", "Monalisa Octocat")
    # The request is accepted; the example has words where GitHub has base64.
    with pytest.raises(SourceFailure, match="is not base64"):
        await source.fetch_file("ci/job.yml", "release/1.0")


async def test_statuses(github: str, outgoing: HttpOutgoing) -> None:
    source = GitHubRepository(outgoing, github, "octocat/Hello-World", _token)
    states: tuple[CommitState, ...] = ("queued", "running", "passed", "failed", "aborted")
    for state in states:
        await source.set_status(COMMIT, CommitStatus(state, "testhide/Smoke", "x" * 500, "https://ci.example.com/1"))
    await source.check()


async def test_tokens_of_an_app(github: str, outgoing: HttpOutgoing) -> None:
    assert (await GitHubApps(outgoing).fetch_token(github, 7, 8, private_key())).startswith("ghs_")


async def test_a_request_that_breaks_the_description_is_refused(github: str, outgoing: HttpOutgoing) -> None:
    """Otherwise the tests above would mean nothing."""
    url, headers = f"{github}/api/v3/repos/octocat/Hello-World/statuses/{COMMIT}", {"Content-Type": "application/json"}
    answer = await outgoing.request("POST", url, headers=headers, body=b'{"state": "odd"}', max_bytes=10_000)
    assert answer.status == 422
