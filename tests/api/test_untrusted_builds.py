"""Builds of pull requests from forks over HTTP: approval, and what their agents get."""

import asyncio
import time
from functools import partial
from typing import Any

import pytest

from commands.builds import StartBuild, start_build
from commands.handler import CommandContext, Handler
from domain.triggers import BuildTrigger
from store.clock import utcnow
from testhide.processes import core
from tests.api.test_failures import FAILS, PASSES, first_bad, run
from tests.support.builders import CONFIGURATION, Shop
from tests.support.fake_agent import FakeAgent
from tests.support.server import Server

REPOSITORY = "https://github.com/acme/shop.git"
PULL_REQUEST = BuildTrigger("pull_request", 3, 7, fork=True)


@pytest.fixture
def shop(server: Server) -> Shop:
    """A shop whose pool takes builds of forks, with an SCM endpoint that has a token."""
    shop = Shop(server)
    server.admin.when("PUT", f"/node-pools/{shop.pool}", json={"untrusted": True}).then(200)
    endpoint = {"type": "github", "name": "Main", "project_id": shop.project, "repo": "acme/shop", "token": "ghp_TOKEN"}
    server.admin.create("/scm", **endpoint)
    return shop


def start(shop: Shop, trigger: BuildTrigger | None = PULL_REQUEST, **configuration: Any) -> int:
    """Queues a build of a change, as `testhide work` does, of a job with a secret."""
    job = shop.new_job()
    settings = CONFIGURATION | {"env": {"A": "1"}, "secrets": {"KEY": "hidden"}} | configuration
    shop.admin.when("PUT", f"/jobs/{job}/configuration", json=settings).then(200)

    async def queue() -> int:
        async with core(shop.server.settings, pool_size=1) as parts:
            build_id = await parts.ids.draw("builds")
            command = StartBuild(
                build_id,
                job,
                "refs/pull/7/head",
                "c0ffee",
                trigger=trigger,
                project_repository=REPOSITORY,
                fork="bob/x",
            )
            execute = partial(Handler(parts.log, utcnow).execute, caller=CommandContext("system:hook"))
            await start_build(execute, parts.ids, command)
            return build_id

    build_id = asyncio.run(queue())
    shop.server.wait_until_projected()
    return build_id


def agent_of(shop: Shop, *features: str) -> FakeAgent:
    return FakeAgent(shop.server.url, shop.new_token()).connected(features)


def run_approved(shop: Shop, commit_sha: str) -> tuple[int, FakeAgent, dict[str, Any]]:
    """Approves a new build of a pull request, and lets an agent begin it. Returns the build's id, the agent, and the
    message with which the agent got the build.
    """
    build = start(shop)
    approve(shop, build)
    agent = agent_of(shop)
    lease = agent.run()
    agent.started(lease, commit_sha=commit_sha).raise_for_status()
    return build, agent, lease


def approve(shop: Shop, build: int) -> dict[str, Any]:
    approved: dict[str, Any] = shop.admin.when("POST", f"/builds/{build}/approve").then(200)
    return approved


def test_a_build_of_a_fork_waits_until_a_writer_approves_it(shop: Shop) -> None:
    build, ordinary = start(shop), start(shop, trigger=None)
    agent = agent_of(shop)
    assert agent.take_up()["id"] == ordinary, "the other one is older, and waits"
    shown = shop.build(build)
    assert (shown["status"], shown["untrusted"], shown["awaits_approval"]) == ("queued", True, True)
    assert (shown["fork"], shown["approved_by"], shown["configuration"]["secrets"]) == ("bob/x", None, [])
    writer = shop.server.make_user("developer", {shop.project: "write"})
    refused = writer.when("POST", f"/builds/{build}/approve", json={"commit_sha": "decade"}).then(409)
    assert refused["detail"] == f"Build {build} is of commit c0ffee, not decade."
    approved = writer.when("POST", f"/builds/{build}/approve", json={"commit_sha": "c0ffee"}).then(200)
    assert approved.items() >= {"id": build, "status": "queued", "commit_sha": "c0ffee"}.items()
    assert approve(shop, build) == approved, "the first approval counts"
    shown = shop.build(build)
    assert (shown["awaits_approval"], shown["approved_by"]) == (False, approved["approved_by"])
    refused = shop.admin.when("POST", f"/builds/{ordinary}/approve").then(409)
    assert "needs no approval" in refused["detail"]
    shop.server.wait_until_projected()
    (entry, *_) = shop.admin.fetch(f"/audit/events?project_id={shop.project}&type=build.approved")
    assert f"approved build {build} of commit c0ffee" in entry["summary"]


def test_an_approval_is_of_all_builds_of_a_group(shop: Shop) -> None:
    build = start(shop, matrix={"axes": {"os": ["linux", "windows"]}})
    group = shop.build(build)["group_id"]
    approve(shop, build)
    shop.server.wait_until_projected()
    builds = shop.admin.fetch(f"/build-groups/{group}")["builds"]
    assert [shop.build(one["id"])["awaits_approval"] for one in builds] == [False, False]


@pytest.mark.parametrize(
    ("features", "configuration", "has_token"),
    [
        ((), {}, False),
        (("build_accounts",), {}, True),
        (("build_accounts", "checkout"), {"checkout": {"submodules": True}}, False),
    ],
)
def test_what_the_agent_of_an_untrusted_build_gets(
    shop: Shop, features: tuple[str, ...], configuration: dict[str, Any], has_token: bool
) -> None:
    build = start(shop, **configuration)
    approve(shop, build)
    lease = agent_of(shop, *features).run()
    assert (lease["id"], lease["branch"], lease["commit_sha"]) == (build, "refs/pull/7/head", "c0ffee")
    assert (lease["secrets"], lease["env"], lease["repository"]) == ({}, {"A": "1"}, REPOSITORY)
    assert lease["cache_scope"].startswith(f"{shop.project}-untrusted-")
    assert lease["fallback_cache_scope"] is None
    assert (lease["repository_credentials"] is not None) == has_token
    assert "hidden" not in str(lease)


def test_a_restart_is_of_the_commit_that_was_approved(shop: Shop) -> None:
    build, agent, lease = run_approved(shop, "decade")
    agent.finished(lease, exit_code=1).raise_for_status()
    shop.server.wait_until_projected()
    again = shop.admin.create(f"/builds/{build}/restart")["id"]
    shop.server.wait_until_projected()
    shown = shop.build(again)
    assert (shown["untrusted"], shown["awaits_approval"], shown["commit_sha"]) == (True, False, "c0ffee")
    assert agent.run()["secrets"] == {}


def test_results_of_a_fork_do_not_make_a_failure_of_the_default_branch_look_flaky(shop: Shop) -> None:
    build, agent, lease = run_approved(shop, "c0ffee")
    agent.report(lease, PASSES, path="report.xml").raise_for_status()
    agent.finished(lease, exit_code=0).raise_for_status()
    shop.server.wait_until_projected()
    job = shop.build(build)["job_id"]

    run(shop.server, job, "decade", PASSES, branch="main")
    bad = run(shop.server, job, "c0ffee", FAILS, branch="main")
    (result,) = shop.admin.fetch(f"/tests?build_id={bad}")["results"]
    assert (result["status"], result["flaky"]) == ("failed", False)
    found = first_bad(shop.server, bad)
    assert found is not None
    assert (found["build_id"], found["cause"], found["passed_in_build_id"]) == (bad, "commit", None)


def test_a_build_says_which_setting_keeps_it_waiting(shop: Shop) -> None:
    build = start(shop)
    agent_of(shop)
    wait_for_reason(shop, build, f"must approve it, by POST /api/v3/builds/{build}/approve.")
    shop.admin.when("PUT", f"/node-pools/{shop.pool}", json={"untrusted": False}).then(200)
    approve(shop, build)
    wait_for_reason(shop, build, '{"untrusted": true}')


def wait_for_reason(shop: Shop, build: int, text: str) -> None:
    deadline = time.monotonic() + 10
    while text not in str(shop.build(build)["waiting_for"]):
        assert time.monotonic() < deadline, shop.build(build)["waiting_for"]
        time.sleep(0.05)  # between two looks
