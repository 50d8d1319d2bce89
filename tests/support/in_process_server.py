"""Runs the same as a `serve` process inside the test's own process, so that a test can look into it and shorten its
intervals.
"""

import asyncio
import contextlib
import threading
import warnings
from collections.abc import Callable, Iterator
from concurrent.futures import Future
from dataclasses import dataclass
from typing import TypeVar, cast

from litestar import Litestar
from litestar.exceptions import LitestarDeprecationWarning
from msgspec import structs

from api.app import create_app
from api.http.services import Services
from api.live.streams import Streams
from integrations.addresses import parse_networks
from testhide import http_server
from testhide.processes import api_services
from testhide.version import VERSION
from tests.support.http import Client
from tests.support.server import Server, free_port

T = TypeVar("T")


@dataclass
class InProcessServer:
    """A server on the event loop of a separate thread."""

    url: str
    app: Litestar
    loop: asyncio.AbstractEventLoop

    @property
    def services(self) -> Services:
        return cast(Services, self.app.state.services)

    @property
    def streams(self) -> Streams:
        return cast(Streams, self.app.state.streams)

    def call(self, function: Callable[[], T]) -> T:
        """Calls a function on the event loop, after the callbacks that are ready there. Returns the function's
        result.
        """

        async def called() -> T:
            return function()

        return asyncio.run_coroutine_threadsafe(called(), self.loop).result(30)

    def client(self, email: str, password: str) -> Client:
        return Client(self.url, email, password)


@contextlib.contextmanager
def serve_in_process(server: Server, **changes: str | int) -> Iterator[InProcessServer]:
    """Serves the server's database inside this process, as one more `serve` process would. `changes` are changed
    settings.
    """
    settings = structs.replace(server.settings, port=free_port(), **changes)
    with warnings.catch_warnings(action="ignore", category=LitestarDeprecationWarning):
        app = create_app(api_services(settings), VERSION)
    proxies = parse_networks(str(changes.get("trusted_proxies", "")))
    stop = asyncio.Event()
    begun: Future[asyncio.AbstractEventLoop] = Future()

    async def run() -> None:
        # No proxies are trusted unless a test wants some, so that addresses of this machine have limits, too.
        serving = asyncio.create_task(
            http_server.serve(app, settings.host, settings.port, stop.wait(), proxies, settings.connections_per_address)
        )
        while app.state.get("streams") is None:
            assert not serving.done()
            await asyncio.sleep(0.02)  # between two checks
        begun.set_result(asyncio.get_running_loop())
        await serving

    thread = threading.Thread(target=asyncio.run, args=(run(),), daemon=True)
    thread.start()
    inside = InProcessServer(f"http://{settings.host}:{settings.port}", app, begun.result(30))
    try:
        yield inside
    finally:
        inside.call(stop.set)
        thread.join(30)
        assert not thread.is_alive(), "the server does not end: something of a stream is left"
