"""Caches that agents share by the server: who gets them, and what is kept."""

import hashlib
import http.client
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

import pytest

from tests.api.test_untrusted_builds import agent_of, approve, start
from tests.support.builders import REPOSITORY, Shop, given_node, given_pool
from tests.support.fake_agent import FakeAgent
from tests.support.server import Server

CONTENT = b"an archive" * 100


@pytest.fixture
def shop(server: Server) -> Shop:
    return Shop(server)


def taken(shop: Shop, agent: FakeAgent, **fields: Any) -> dict[str, Any]:
    """A build that runs on the agent."""
    build_id = shop.start(**fields)
    build = agent.take_up()
    assert build["id"] == build_id
    return build


def blobs(shop: Shop) -> list[Path]:
    folder = Path(shop.server.settings.data_dir, "blobs", "caches", str(shop.job))
    return [path for path in folder.iterdir() if path.is_file()]


def test_agents_of_a_pool_share_what_builds_of_a_job_save(shop: Shop) -> None:
    first, second = shop.new_agent(), shop.new_agent()
    build = taken(shop, first)
    assert build["shared_cache_bytes"] == 1024**3
    assert first.fetch_cache(build, "deps").status_code == 404
    assert first.send_cache(build, "deps", CONTENT).status_code == 204

    answer = second.fetch_cache(taken(shop, second), "deps")

    assert answer.content == CONTENT
    assert answer.headers["Content-Length"] == str(len(CONTENT))
    assert answer.headers["ETag"] == f'"{hashlib.sha256(CONTENT).hexdigest()}"'
    assert second.fetch_cache({**build, "id": shop.build(build["id"])["id"]}, "deps").status_code == 404, (
        "not its build"
    )


def test_a_later_cache_of_a_name_takes_the_place_of_the_earlier_one(shop: Shop) -> None:
    agent = shop.new_agent()
    build = taken(shop, agent)
    for content in (CONTENT, b"newer"):
        agent.send_cache(build, "deps", content).raise_for_status()
    agent.send_cache(build, "others", CONTENT).raise_for_status()

    assert agent.fetch_cache(build, "deps").content == b"newer"
    assert len(blobs(shop)) == 2


def test_another_job_and_another_pool_have_caches_of_their_own(shop: Shop) -> None:
    agent = shop.new_agent(max_parallel=2)
    agent.send_cache(taken(shop, agent), "deps", CONTENT).raise_for_status()
    other_pool = given_pool(shop.server, shop.project, name="arm")
    elsewhere = FakeAgent(shop.server.url, given_node(shop.server, pool_id=other_pool)["agent_token"]).connected()

    assert agent.fetch_cache(taken(shop, agent, job=shop.new_job()), "deps").status_code == 404
    shop.admin.when("PUT", f"/jobs/{shop.job}", json={"node_pool_id": other_pool}).then(200)
    assert elsewhere.fetch_cache(taken(shop, elsewhere), "deps").status_code == 404


def test_a_branch_reads_the_caches_of_the_default_branch_and_no_others(shop: Shop) -> None:
    agent = shop.new_agent(max_parallel=4)
    main, feature, other = (taken(shop, agent, branch=branch) for branch in (None, "feature", "other"))
    agent.send_cache(feature, "deps", b"of the feature").raise_for_status()

    assert agent.fetch_cache(feature, "deps").content == b"of the feature"
    for build, asked in ((main, "false"), (main, "true"), (other, "false"), (other, "true"), (feature, "true")):
        assert agent.fetch_cache(build, "deps", fallback=asked).status_code == 404

    agent.send_cache(main, "deps", b"of main").raise_for_status()
    assert agent.fetch_cache(feature, "deps").content == b"of the feature"
    assert agent.fetch_cache(feature, "deps", fallback="true").content == b"of main"
    assert agent.fetch_cache(other, "deps").status_code == 404, "as an agent asks that knows no fallback"
    assert agent.fetch_cache(other, "deps", fallback="true").content == b"of main"
    assert agent.fetch_cache(main, "deps").content == b"of main"
    assert main["fallback_cache_scope"] is None
    assert feature["fallback_cache_scope"] == other["fallback_cache_scope"] == main["cache_scope"]


def test_who_names_the_commit_does_not_choose_the_branch_whose_caches_are_saved(shop: Shop) -> None:
    agent = shop.new_agent(max_parallel=2)
    job = shop.new_job(repository=REPOSITORY)
    agent.send_cache(taken(shop, agent, job=job, branch="main", commit_sha="c0ffee"), "deps", CONTENT)

    assert agent.fetch_cache(taken(shop, agent, job=job, branch="main"), "deps").status_code == 404


def test_builds_of_others_do_not_share_with_those_of_admins(shop: Shop) -> None:
    developer = shop.server.make_user("developer", {shop.project: "write"})
    agent = shop.new_agent(max_parallel=3)

    def taken_of(client: Any) -> dict[str, Any]:
        client.create("/builds/start", job_id=shop.job)
        return agent.take_up()

    agent.send_cache(taken_of(developer), "deps", b"by a member").raise_for_status()
    of_admin = taken_of(shop.admin)
    assert agent.fetch_cache(of_admin, "deps").status_code == 404
    agent.send_cache(of_admin, "deps", b"by an admin").raise_for_status()

    assert agent.fetch_cache(taken_of(developer), "deps").content == b"by a member"


def test_builds_of_forks_share_with_no_trusted_build(shop: Shop) -> None:
    shop.admin.when("PUT", f"/node-pools/{shop.pool}", json={"untrusted": True}).then(200)
    endpoint = {"type": "github", "name": "Main", "project_id": shop.project, "repo": "acme/shop", "token": "ghp_TOKEN"}
    shop.admin.create("/scm", **endpoint)
    fork = start(shop)
    approve(shop, fork)
    agent = agent_of(shop)
    untrusted = agent.take_up()
    assert untrusted["id"] == fork
    agent.send_cache(untrusted, "deps", b"of a stranger").raise_for_status()
    assert agent.fetch_cache(untrusted, "deps").content == b"of a stranger"
    agent.finished(untrusted).raise_for_status()

    trusted = taken(shop, agent, job=untrusted["job_id"])

    assert agent.fetch_cache(trusted, "deps").status_code == 404


def test_only_the_attempt_that_runs_reaches_caches(shop: Shop) -> None:
    agent, other = shop.new_agent(), shop.new_agent()
    build = taken(shop, agent)
    agent.send_cache(build, "deps", CONTENT).raise_for_status()
    for client, lease, status in ((other, build, 404), (agent, {**build, "attempt": 2}, 409)):
        assert client.fetch_cache(lease, "deps").status_code == status
        assert client.send_cache(lease, "deps", CONTENT).status_code == status
    agent.finished(build).raise_for_status()

    assert agent.fetch_cache(build, "deps").status_code == 409
    assert agent.send_cache(build, "deps", CONTENT).status_code == 409
    assert len(blobs(shop)) == 1


def test_a_cache_that_is_lost_or_cut_off_is_none(shop: Shop) -> None:
    agent = shop.new_agent()
    build = taken(shop, agent)
    for damage in (Path.unlink, lambda path: path.write_bytes(b"half")):
        agent.send_cache(build, "deps", CONTENT).raise_for_status()
        (blob,) = blobs(shop)
        damage(blob)
        assert agent.fetch_cache(build, "deps").status_code == 404
    agent.send_cache(build, "deps", CONTENT).raise_for_status()

    assert agent.fetch_cache(build, "deps").content == CONTENT
    assert len(blobs(shop)) == 1, "what was damaged is deleted"


def test_what_did_not_come_as_it_was_sent_is_refused(shop: Shop) -> None:
    agent = shop.new_agent()
    build = taken(shop, agent)

    assert agent.send_cache(build, "deps", CONTENT, sha256="0" * 64).status_code == 422
    assert agent.fetch_cache(build, "deps").status_code == 404


def test_a_cache_that_is_too_large_is_refused_before_it_is_sent(shop: Shop) -> None:
    agent = shop.new_agent()
    build = taken(shop, agent)
    url = urlsplit(shop.server.url)
    connection = http.client.HTTPConnection(url.hostname or "", url.port, timeout=10)
    digest = "0" * 64
    connection.putrequest("PUT", f"/api/v3/agent/builds/{build['id']}/caches/{digest}?attempt=1&sha256={digest}")
    connection.putheader("Authorization", str(agent.http.headers["Authorization"]))
    connection.putheader("Content-Length", str(1024**3 + 1))
    connection.endheaders()

    assert connection.getresponse().status == 413
    connection.close()
