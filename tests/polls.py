"""Who asks for work, by the server's own notes."""

import time

import psycopg

from tests.fake_agent import FakeAgent

WITHIN_S = 10.0


def until_it_asks(database: psycopg.Connection, agent: FakeAgent, free: int = 1) -> None:
    """Returns once it is noted that the agent has a poll open, for so many builds."""
    query = "SELECT count(*) FROM agent_gauges WHERE session = %s AND polling AND free = %s"
    deadline = time.monotonic() + WITHIN_S
    while database.execute(query, (agent.session, free)).fetchone() != (1,):
        assert time.monotonic() < deadline, "it is not noted that the agent asks"
        time.sleep(0.02)  # between two looks
