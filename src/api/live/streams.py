"""Open streams of a process, and the feeds that they read, for all controllers that use them."""

import contextlib
from collections.abc import AsyncIterator

from api.http.services import Services
from api.live.build_feed import BuildFeeds
from api.live.event_feed import EventFeed
from api.live.finished_logs import FinishedLogs
from api.live.stream_clients import StreamClients

MAX_EXPORTS_PER_USER = 2
"""Largest number of exports of the log that a user may have open at a process. Each takes a few MiB, and CPU time."""
MAX_EXPORTS = 8
"""Largest number of exports of the log that a process has open at a time."""
MAX_CONTAINER_LOGS_PER_USER = 4
"""Largest number of logs of containers that a user may have open as streams at a process. Each takes a process of 40
MB.
"""
MAX_CONTAINER_LOGS = 12
"""Largest number of logs of containers that a process has open as streams at a time. This is fewer than
`integrations.docker.logs.MAX_READERS`, so requests without a stream can still read the last lines of a log.
"""


class Streams:
    """All live streams of a process. The application's state has this object as `streams`."""

    def __init__(self, services: Services) -> None:
        self.clients = StreamClients(services.streams_per_user)
        self.exports = StreamClients(MAX_EXPORTS_PER_USER, MAX_EXPORTS, kind="exports")
        self.container_logs = StreamClients(
            MAX_CONTAINER_LOGS_PER_USER, MAX_CONTAINER_LOGS, kind="logs of Docker agents"
        )
        self.builds = BuildFeeds(services)
        self.events = EventFeed(services)
        self.finished_logs = FinishedLogs(services.log, services.build_logs)

    @contextlib.asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        with self.builds.listening():
            async with self.clients.watched(), self.exports.watched(), self.container_logs.watched():
                yield
