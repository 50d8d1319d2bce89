"""From `git push` to an issue in Jira, which jira820 plays. The worker is killed before and after it creates an issue.

The test takes two minutes, as long as the claim of a worker that was killed keeps others from creating its issue.
"""

from collections.abc import Awaitable, Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

import pytest
import requests
from aiohttp import web

from domain.tickets import TICKET_CLAIM_LIFETIME
from testhide.engines import Engines
from tests.e2e.pushing import TESTS, Killer, Pushed, pass_on, pushed_repository
from tests.support.server import Server, server_on_new_database
from tests.support.source_host import serving

pytestmark = pytest.mark.real("jira820")
ISSUE_LOST, ISSUE_CREATED = "an issue is lost", "an issue is created"
WORDS = {"kettle": ISSUE_LOST, "teapot": ISSUE_CREATED}
"""What the failures of each push say, and when the worker is killed."""


@pytest.fixture(name="worked")
def _worked(engines: Engines, tmp_path: Path) -> Iterator[Server]:
    names = ("serve", "project", "dispatch", "work")
    with server_on_new_database(engines, tmp_path, *names, outgoing_allow="127.0.0.0/8") as server:
        yield server


async def test_a_failure_of_thirty_tests_is_one_issue_although_the_worker_is_killed(
    worked: Server, url: str, tmp_path: Path
) -> None:
    async with pushed_repository(worked, tmp_path) as pushed, serving(watched_jira(url, pushed.killer)) as host:
        integration = {"name": "ACME", "host": host, "email": "u@acme.com", "api_token": "t", "project_key": "BACK"}
        scope = {"auto_create": True, "testhide_project_id": pushed.shop.project, "deployment": "data_center"}
        pushed.shop.admin.create("/jira", **integration, **scope)
        pushed.start_agents()
        commits = []
        for word, moment in WORDS.items():
            pushed.killer.armed = [moment]
            commits.append(await pushed.push(word))
            await pushed.until(lambda: not pushed.killer.armed and pushed.has_ended(commits[-1]))
        await pushed.until(lambda: not pushed.due(), within_s=3 * TICKET_CLAIM_LIFETIME.total_seconds())
        for word, commit in zip(WORDS, commits, strict=True):
            (issue,) = [issue for issue in fetch_issues(url) if issue["summary"].startswith(f"the {word} is away")]
            assert issue["summary"].endswith(f" and {TESTS - 1} more tests")
            assert issue["key"] in fetch_defects(pushed, pushed.check(commit, len(commits)))


def fetch_defects(pushed: Pushed, builds: Sequence[dict[str, Any]]) -> list[str | None]:
    """Returns the defect of the first failure of each build. All failures of a build must have the same."""
    found = []
    for build in builds:
        failed = pushed.shop.admin.fetch("/tests", build_id=build["id"], limit=100)["results"]
        (defect,) = {test["defect_key"] for test in failed}
        found.append(defect)
    return found


def watched_jira(url: str, killer: Killer) -> Callable[[web.BaseRequest], Awaitable[web.Response]]:
    """Returns a handler that passes requests on to Jira, and notes the moments around the creation of an issue."""

    async def handle(request: web.BaseRequest) -> web.Response:
        creates = (request.method, request.path) == ("POST", "/rest/api/2/issue")
        if creates and killer.reach(ISSUE_LOST):
            return web.Response(status=503)  # whoever has asked is gone
        answer = await pass_on(request, url + request.path_qs)
        if creates:
            killer.reach(ISSUE_CREATED)
        return answer

    return handle


def fetch_issues(url: str) -> list[dict[str, Any]]:
    found = requests.get(f"{url}/rest/api/2/search", params={"jql": "project = BACK", "maxResults": "1000"}, timeout=9)
    return [issue["fields"] | {"key": issue["key"]} for issue in found.json()["issues"]]
