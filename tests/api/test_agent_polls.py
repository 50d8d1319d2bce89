"""An open poll while the database, or this process's connection to it, is lost, and when its session ends."""

import time
from concurrent.futures import ThreadPoolExecutor
from http.client import HTTPConnection
from urllib.parse import urlsplit

import psycopg

from api.live.agent_polls import AgentPolls
from store.postgres.notifications import POLLS
from tests.support.builders import Shop
from tests.support.fake_agent import FakeAgent, until_it_asks
from tests.support.in_process_server import InProcessServer
from tests.support.server import Server

DISCONNECT_LISTENERS = """
    SELECT pg_terminate_backend(pid) FROM pg_stat_activity
    WHERE datname = current_database() AND query LIKE 'LISTEN%' AND pid <> pg_backend_pid()
"""


def test_a_poll_that_heard_nothing_for_a_while_asks_again(server: Server) -> None:
    shop = Shop(server)
    agent = shop.new_agent()
    with (
        ThreadPoolExecutor() as threads,
        psycopg.connect(server.engines.database_url, autocommit=True) as database,
    ):
        asking = threads.submit(agent.ask)
        until_it_asks(database, agent)
        # A crash of the database empties what is kept of agents, and cuts who listens.
        database.execute("DELETE FROM agent_gauges WHERE session = %s", (agent.session,))
        database.execute(DISCONNECT_LISTENERS)
        until_it_asks(database, agent)
        build = shop.start()
        assert asking.result().json()["build"]["id"] == build


def test_a_poll_that_is_answered_at_once_asks_for_no_further_build(server: Server) -> None:
    """The dispatcher would assign one, which the agent has no room for."""
    shop = Shop(server)
    agent = FakeAgent(server.url, shop.new_token())
    node = agent.connect().json()["node_id"]
    shop.start()
    message = agent.ask(receipt="").json()
    with (
        ThreadPoolExecutor() as threads,
        psycopg.connect(server.engines.database_url, autocommit=True) as database,
    ):
        database.execute(f"LISTEN {POLLS}")
        assert agent.ask(receipt="").json() == message, "the message was lost, and comes again"
        agent.started(message["build"]).raise_for_status()
        polling = threads.submit(agent.ask, 0, message["receipt"])
        notified = next(
            notification.payload
            for notification in database.notifies(timeout=10)
            if notification.payload.startswith(f"{node}:")
        )
        assert notified.split(":")[1] == "0", "no poll came before"
        shop.admin.post(f"/api/v3/builds/{message['build']['id']}/stop").raise_for_status()
        assert polling.result().json()["type"] == "stop"


def test_a_poll_ends_with_the_token_that_opened_it(server: Server) -> None:
    shop = Shop(server)
    agent = FakeAgent(server.url, shop.new_token())
    node = agent.connect().json()["node_id"]
    with (
        ThreadPoolExecutor() as threads,
        psycopg.connect(server.engines.database_url, autocommit=True) as database,
    ):
        asking = threads.submit(agent.ask)
        until_it_asks(database, agent)
        rotated = shop.admin.when("POST", f"/nodes/{node}/rotate-token", params={"at_once": True}).then(200)
        assert shop.admin.fetch(f"/nodes/{node}")["status"] == "offline"
        build = shop.start()
        assert asking.result().status_code == 204
    assert FakeAgent(server.url, rotated["agent_token"]).connected().take_up()["id"] == build


def test_an_agent_that_went_to_another_process_keeps_its_poll_there(server: Server, inside: InProcessServer) -> None:
    """The first process sees late that the agent has gone, and ends its own poll only."""
    agent = Shop(server).new_agent()
    with (
        ThreadPoolExecutor() as threads,
        psycopg.connect(server.engines.database_url, autocommit=True) as database,
    ):
        query, headers = f"session={agent.session}&free=1", {"Authorization": str(agent.http.headers["Authorization"])}
        earlier = HTTPConnection(str(urlsplit(inside.url).hostname), urlsplit(inside.url).port, timeout=30)
        earlier.request("GET", f"/api/v3/agent/next?{query}", headers=headers)
        until_it_asks(database, agent, free=1)
        asking = threads.submit(agent.ask, 2)
        until_it_asks(database, agent, free=2)
        earlier.close()
        polls: AgentPolls = inside.app.state.polls
        while inside.call(lambda: bool(polls._open)):
            time.sleep(0.02)  # between two looks
        until_it_asks(database, agent, free=2)
        assert not asking.done()
        agent.disconnect().raise_for_status()
        asking.result()
