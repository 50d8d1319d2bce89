"""Limits the calls to each source code host, so that a slow host does not delay the commit statuses for other hosts."""

import contextlib
import math
import time
from collections import Counter
from collections.abc import Callable, Iterator

from integrations.source_ports import SourceUnavailable

MAX_CALLS = 10
"""Largest number of calls to one host that a process makes at the same time. It is a sixth of the process's slots for
commit statuses.
"""
BUSY_HOST_PAUSE_S = 3
"""Seconds until a commit status is tried again if MAX_CALLS calls to its host are under way."""
SILENT_HOST_PAUSE_S = 30
"""Seconds for which no calls are made to a host after it did not answer in time."""


class HostCalls:
    def __init__(self, clock: Callable[[], float] = time.monotonic) -> None:
        self._clock = clock
        self._under_way = Counter[str]()
        self._paused_until: dict[str, float] = {}

    @contextlib.contextmanager
    def call(self, host: str) -> Iterator[None]:
        """Context manager around a call to a host. Counts the call until the block ends. Raises SourceUnavailable if
        the host may not be called now, because it is paused or has MAX_CALLS calls under way.
        """
        wait_s = self._paused_until.get(host, 0.0) - self._clock()
        if wait_s > 0:
            raise SourceUnavailable(f"{host} did not answer in time just now.", math.ceil(wait_s))
        if self._under_way[host] >= MAX_CALLS:
            raise SourceUnavailable(f"{host} has {MAX_CALLS} requests under way.", BUSY_HOST_PAUSE_S)
        self._under_way[host] += 1
        try:
            yield
        except SourceUnavailable as error:
            if error.is_timeout:
                self._pause(host)
            raise
        finally:
            self._under_way[host] -= 1
            if not self._under_way[host]:
                del self._under_way[host]

    def _pause(self, host: str) -> None:
        now = self._clock()
        self._paused_until = {other: until for other, until in self._paused_until.items() if until > now}
        self._paused_until[host] = now + SILENT_HOST_PAUSE_S
