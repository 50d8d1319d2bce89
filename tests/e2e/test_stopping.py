"""An API process that is told to end while people read its streams."""

import asyncio
import signal
from pathlib import Path

from testhide.engines import Engines
from testhide.processes import create_first_admin
from tests.conftest import running_server
from tests.fake_agent import Shop


def test_open_streams_do_not_keep_a_server_that_is_told_to_end(engines: Engines, tmp_path: Path) -> None:
    with running_server(engines, tmp_path, "serve", "project") as server:
        asyncio.run(create_first_admin(server.settings))
        server.settle()
        shop = Shop(server)
        build = shop.start()
        with shop.admin.get(f"/api/v3/builds/{build}/stream?ids=true", stream=True):
            server.kill("serve", signal.SIGTERM)  # fails when it has not ended after 10 s
