"""The shard of a build of a matrix, in the message to its agent."""

from typing import Any

from tests.api.test_splitting import given_run
from tests.support.builders import CONFIGURATION, Shop
from tests.support.fake_agent import FakeAgent
from tests.support.server import Server

TESTS: dict[str, float | None] = {f"tests/test_a.py::test_{number}": 0.5 + 0.1 * (number % 7) for number in range(50)}


def given_shards(shop: Shop, *shards: str, **axes: list[str]) -> int:
    job = shop.new_job()
    configuration = CONFIGURATION | {"matrix": {"axes": axes | {"testhide-shard": list(shards)}}}
    shop.admin.when("PUT", f"/jobs/{job}/configuration", json=configuration).then(200)
    return job


def new_agent(shop: Shop) -> FakeAgent:
    return FakeAgent(shop.server.url, shop.new_token(max_parallel=4)).connected(features=["shards"])


def take_up(agent: FakeAgent, free: int) -> dict[str, Any]:
    build = agent.take_up(free)
    shard = build["shard"]
    assert build["env"]["TESTHIDE_SHARD"] == str(shard["number"])
    assert build["env"]["TESTHIDE_SHARDS"] == str(shard["count"])
    return build


def test_all_builds_of_a_group_follow_one_division(server: Server) -> None:
    shop = Shop(server)
    job = given_shards(shop, "1", "2")
    given_run(server, job, TESTS)
    server.wait_until_projected()
    agent = new_agent(shop)
    shop.start(job)
    first = take_up(agent, 1)
    # Meanwhile the durations change, and there is a new test.
    slower: dict[str, float | None] = dict.fromkeys(list(TESTS)[:10], 100.0)
    given_run(server, job, slower | {"tests/test_b.py::test_new": 1.0})
    server.wait_until_projected()
    second = take_up(agent, 1)
    assert {first["shard"]["number"], second["shard"]["number"]} == {1, 2}
    assert first["shard"]["tests"] == second["shard"]["other_tests"]
    assert second["shard"]["tests"] == first["shard"]["other_tests"]
    assert sorted(first["shard"]["tests"] + second["shard"]["tests"]) == sorted(TESTS)
    took = [sum(TESTS[name] or 0 for name in build["shard"]["tests"]) for build in (first, second)]
    assert max(took) < 1.05 * sum(took) / 2

    for build in (first, second):
        agent.finished(build, exit_code=1).raise_for_status()
    shop.ended(first["id"])
    restarted = shop.admin.post(f"/api/v3/builds/{first['id']}/restart").json()["id"]
    again = take_up(agent, 2)
    assert (again["id"], again["shard"]) == (restarted, first["shard"])

    shop.start(job)
    assert "tests/test_b.py::test_new" in {*(its := take_up(agent, 2)["shard"])["tests"], *its["other_tests"]}


def test_all_tests_are_unknown_at_first(server: Server) -> None:
    shop = Shop(server)
    job = given_shards(shop, "1", "2", os=["linux"])
    agent = new_agent(shop)
    shop.start(job)
    shard = take_up(agent, 1)["shard"]
    assert shard == {"number": shard["number"], "count": 2, "tests": [], "other_tests": []}


def test_an_older_agent_gets_no_build_with_a_shard(server: Server) -> None:
    """It would run all tests."""
    shop = Shop(server)
    agent = shop.new_agent()
    shop.start(given_shards(shop, "1", "2"))
    later = shop.start()
    assert agent.run()["id"] == later


def test_a_build_without_shards_runs_all_tests(server: Server) -> None:
    shop = Shop(server)
    agent = shop.new_agent()
    shop.start()
    assert agent.run()["shard"] is None
