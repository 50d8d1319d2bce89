"""An API process that is told to end while people read its streams and agents ask for work."""

import signal
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import psycopg

from testhide.engines import Engines
from tests.support.builders import Shop
from tests.support.fake_agent import until_it_asks
from tests.support.server import server_on_new_database


def test_what_waits_does_not_keep_a_server_that_is_told_to_end(engines: Engines, tmp_path: Path) -> None:
    with server_on_new_database(engines, tmp_path, "serve", "project") as server, ThreadPoolExecutor() as threads:
        shop, agent = Shop(server), Shop(server).new_agent()
        build = shop.start()
        asking = threads.submit(agent.ask)
        with psycopg.connect(server.settings.database_url, autocommit=True) as database:
            until_it_asks(database, agent)
        with shop.admin.get(f"/api/v3/builds/{build}/stream?ids=true", stream=True):
            server.kill("serve", signal.SIGTERM)  # fails when it has not ended after 10 s
        assert asking.result().status_code == 204
