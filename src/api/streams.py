"""The open streams of a process, and what they are fed from."""

import contextlib
from collections.abc import AsyncIterator

from api.build_stream import BuildFeeds
from api.events_stream import EventsFeed
from api.live import Readers
from api.services import Services


class Streams:
    """Lies in the application's state as `streams`."""

    def __init__(self, services: Services) -> None:
        self.readers = Readers()
        self.builds = BuildFeeds(services)
        self.events = EventsFeed(services)

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        with self.builds.listening():
            async with self.readers.watched():
                yield
