"""Dispatch with real processes and fake agents: no build waits for ever, none runs twice at once."""

import time
from collections import Counter
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg
import pytest

from api.live.agent_polls import POLL_TIMEOUT_S
from tests.support.builders import REPOSITORY, Shop
from tests.support.fake_agent import FakeAgent, until_it_asks
from tests.support.server import Server
from workers.dispatch.dispatcher import OFFLINE_AFTER_S, POLL_EXPIRY_S


@pytest.fixture
def shop(server: Server) -> Shop:
    return Shop(server)


@pytest.fixture
def gauges(server: Server) -> Iterator[psycopg.Connection]:
    with psycopg.connect(server.engines.database_url, autocommit=True) as connection:
        yield connection


def test_a_build_goes_to_the_agent_that_waits(shop: Shop) -> None:
    agent = shop.new_agent()
    with ThreadPoolExecutor() as threads:
        waiting = threads.submit(agent.run)
        job = shop.new_job(repository=REPOSITORY)
        number = shop.start(job, env={"A": "1"}, secrets={"KEY": "hidden"}, branch="dev", commit_sha="c0ffee")
        build = waiting.result(30)
    assert build["id"] == number
    expected = {"attempt": 1, "job_id": job, "job_name": "Smoke", "project_id": shop.project, "command": "pytest"}
    assert build.items() >= (expected | {"branch": "dev", "commit_sha": "c0ffee", "timeout_s": 3600}).items()
    assert (build["env"]["A"], build["secrets"]) == ("1", {"KEY": "hidden"})
    agent.started(build).raise_for_status()
    assert shop.build(number)["status"] == "running"
    assert agent.log(build, 0, ["one", "two"]).json() == {"acknowledged": 2}
    assert agent.finished(build).json() == {"status": "passed"}
    ended = shop.build(number)
    assert (ended["status"], ended["log_lines"], ended["attempt"]) == ("passed", 2, 1)


def test_the_dispatcher_takes_no_poll_for_closed_that_an_agent_still_has_open() -> None:
    assert POLL_TIMEOUT_S < POLL_EXPIRY_S < OFFLINE_AFTER_S


def test_without_its_scm_endpoint_a_build_of_a_change_fails_and_one_started_by_hand_says_so(shop: Shop) -> None:
    project = Shop(shop.server)
    endpoint = {"type": "github", "name": "Web", "project_id": project.project, "repo": "acme/web", "token": "t"}
    created = shop.admin.create("/scm", **endpoint)
    shop.admin.when("PUT", f"/jobs/{project.job}/triggers", json={"branches": ["main"]}).then(200)
    change = {"project_id": project.project, "branch": "main", "commit_sha": "c0ffee", "paths": ["a.py"]}
    (of_change,) = shop.admin.when("POST", "/builds/git-notify", json=change).then(200)["build_ids"]
    by_hand = project.start(commit_sha="c0ffee")
    shop.admin.when("DELETE", f"/scm/{created['id']}").then(204)
    agent = project.new_agent()
    begun = time.monotonic()
    build = agent.take_up()
    assert build["id"] == by_hand
    assert time.monotonic() - begun < POLL_TIMEOUT_S / 2, "the slot of the build that failed is free at once"
    agent.finished(build).raise_for_status()
    assert "no SCM endpoint" in project.ended(by_hand)["detail"]
    ended = project.ended(of_change)
    assert (ended["status"], ended["reason"]) == ("failed", "checkout_failed")
    assert "no SCM endpoint" in ended["detail"]


def test_an_agent_that_comes_later_finds_what_waits(shop: Shop) -> None:
    numbers = [shop.start(), shop.start()]
    agent = shop.new_agent(max_parallel=2)
    builds = [agent.take_up(free=2), agent.take_up(free=1)]
    assert sorted(build["id"] for build in builds) == numbers
    assert {agent.finished(build).json()["status"] for build in builds} == {"passed"}


def test_an_assignment_that_nobody_takes_up_goes_to_another_agent(shop: Shop) -> None:
    silent, other = shop.new_agent(), shop.new_agent()
    number = shop.start()
    lost = silent.run()
    build = other.take_up()
    assert (build["id"], build["attempt"]) == (number, 2)
    for answer in (silent.started(lost), silent.log(lost, 0, ["late"]), silent.finished(lost)):
        assert answer.status_code == 404
    assert silent.beat(lost) == [[number, "reassigned"]]
    assert other.finished(build, exit_code=1).json() == {"status": "failed"}


def test_a_log_line_shows_that_an_agent_is_at_it(shop: Shop) -> None:
    agent = shop.new_agent()
    shop.start()
    build = agent.run()
    agent.log(build, 0, ["==> checking out"]).raise_for_status()
    assert agent.beat(build) == []
    agent.started(build, "c0ffee").raise_for_status()
    agent.finished(build).raise_for_status()
    assert shop.build(build["id"])["commit_sha"] == "c0ffee"


def test_one_agent_at_a_time(shop: Shop) -> None:
    token = shop.new_token()
    first = FakeAgent(shop.server.url, token).connected()
    second = FakeAgent(shop.server.url, token)
    answer = second.connect()
    assert answer.status_code == 409
    assert "Another agent" in answer.json()["detail"]
    assert second.ask().status_code == 409
    assert first.connect().status_code == 200, "the same session may connect again"


def test_a_running_build_is_stopped(shop: Shop, gauges: psycopg.Connection) -> None:
    agent = shop.new_agent()
    number = shop.start()
    build = agent.take_up()
    with ThreadPoolExecutor() as threads:
        waiting = threads.submit(agent.next, 0)
        until_it_asks(gauges, agent, free=0)  # what is stopped between two polls its heartbeat hears of
        assert shop.admin.post(f"/api/v3/builds/{number}/stop").json() == {"id": number, "status": "aborted"}
        stop = waiting.result(30)
    assert stop.pop("receipt")
    assert stop == {"type": "stop", "build_id": number, "attempt": 1, "reason": "stopped"}
    assert agent.beat(build) == [[number, "stopped"]]
    assert shop.admin.post(f"/api/v3/builds/{number}/stop").status_code == 409


def test_a_queued_build_is_stopped(shop: Shop) -> None:
    number, next_one = shop.start(), shop.start()
    shop.admin.post(f"/api/v3/builds/{number}/stop").raise_for_status()
    assert shop.new_agent().run()["id"] == next_one
    assert shop.build(number)["reason"] == "stopped_by_user"


def test_a_deleted_jobs_builds_are_stopped(shop: Shop, gauges: psycopg.Connection) -> None:
    job = shop.new_job()
    agent = shop.new_agent()
    number = shop.start(job)
    build = agent.take_up()
    with ThreadPoolExecutor() as threads:
        waiting = threads.submit(agent.next, 0)
        until_it_asks(gauges, agent, free=0)  # what is stopped between two polls its heartbeat hears of
        assert shop.admin.delete(f"/api/v3/jobs/{job}").status_code == 204
        assert waiting.result(30)["build_id"] == number
    assert agent.beat(build) == [[number, "stopped"]]
    assert shop.admin.get(f"/api/v3/builds/{number}").status_code == 404


def test_two_dispatchers_and_the_death_of_the_leader(shop: Shop) -> None:
    """Builds go on, and none is given out twice."""
    server = shop.server
    first = server.processes.pop("dispatch")
    server.start("dispatch")
    agents = [shop.new_agent() for _ in range(2)]
    try:
        started = [shop.start() for _ in range(3)]
        assert [_work(agents[0]) for _ in started] == started
    finally:
        first.kill()
        first.wait(10)
    more = [shop.start() for _ in range(6)]
    turns = iter(more)  # of both agents, which have one poll each, as real agents have
    with ThreadPoolExecutor() as threads:
        done = threads.map(lambda agent: [_work(agent) for _ in turns], agents)
    assert sorted(number for numbers in done for number in numbers) == more, "each runs once, by one of the agents"
    assert Counter(shop.build(number)["attempt"] for number in more) == {1: 6}


def _work(agent: FakeAgent) -> int:
    build = agent.take_up()
    agent.finished(build).raise_for_status()
    return int(build["id"])
