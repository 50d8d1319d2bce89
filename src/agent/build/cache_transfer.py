"""Fetches shared caches from the server, and sends the server the caches that this agent has saved.

No cache is worth a failed build or a long wait: a transfer that does not succeed soon is given up.
"""

from __future__ import annotations

import hashlib
import time
from collections.abc import Iterator
from dataclasses import dataclass
from http.client import HTTPResponse
from typing import BinaryIO

from agent.build.build_client import BuildClient, file_size
from agent.server_client import LONGEST_PAUSE_S, RequestAbandoned, RequestRefused
from agent.server_request import RetryPause

_CHUNK_BYTES = 1 << 18
_TRIES = 3
_TRANSFER_TIMEOUT_S = 300.0  # of one transfer, with all tries


class NotTransferred(Exception):
    """A cache could not be fetched or sent. The message says why."""


@dataclass
class CacheTransfer:
    """Transfers caches of one build. `_pause` returns True as soon as the build is to end. `limit_bytes` is the largest
    size of a cache that the server takes; 0 if the server keeps no caches.
    """

    _client: BuildClient
    _pause: RetryPause
    limit_bytes: int

    def fetch(self, name: str, is_fallback: bool, file: BinaryIO) -> bool:
        """Write the cache called `name` into a file and return True. The cache is taken from the build's cache scope
        or, with `is_fallback`, from the scope of the job's default branch. Return False if the server has no such
        cache. Raises `NotTransferred` if the transfer fails or takes too long.
        """
        deadline = time.monotonic() + _TRANSFER_TIMEOUT_S

        def read(response: HTTPResponse) -> bytes:
            if response.status != 200:
                return response.read()
            file.seek(0)
            file.truncate()
            size, hashed = 0, hashlib.sha256()
            while chunk := response.read(_CHUNK_BYTES):
                self._check(deadline)
                hashed.update(chunk)
                size += len(chunk)
                if size > self.limit_bytes:
                    raise NotTransferred(f"it has more than {self.limit_bytes:,} bytes")
                try:
                    file.write(chunk)
                except OSError as error:  # must not count as an error of the connection
                    raise NotTransferred(str(error)) from None
            if response.getheader("ETag") != f'"{hashed.hexdigest()}"':
                raise NotTransferred("it is damaged")
            return b""

        try:
            self._client.fetch_cache(name, is_fallback, read, self._limit_tries(deadline))
        except RequestRefused as refused:
            if refused.status == 404:
                return False
            raise NotTransferred(str(refused)) from None
        except RequestAbandoned:
            raise NotTransferred("the server does not give it") from None
        return True

    def send(self, name: str, digest: str, file: BinaryIO) -> None:
        """Send a file, whose SHA-256 is `digest`, as the cache called `name`. Raises `NotTransferred` if the file is
        too large, or if the transfer fails or takes too long.
        """
        deadline = time.monotonic() + _TRANSFER_TIMEOUT_S
        size = file_size(file)
        if size > self.limit_bytes:
            raise NotTransferred(f"it has more than {self.limit_bytes:,} bytes")

        def read_chunks() -> Iterator[bytes]:
            file.seek(0)
            while chunk := file.read(_CHUNK_BYTES):
                self._check(deadline)
                yield chunk

        try:
            self._client.send_cache(name, digest, read_chunks, size, self._limit_tries(deadline))
        except RequestRefused as refused:
            raise NotTransferred(str(refused)) from None
        except RequestAbandoned:
            raise NotTransferred("the server does not take it") from None

    def _limit_tries(self, deadline: float) -> RetryPause:
        pauses = 0

        def pause(seconds: float) -> bool:
            nonlocal pauses
            pauses += 1
            is_last = pauses >= _TRIES or seconds > LONGEST_PAUSE_S or time.monotonic() + seconds > deadline
            return is_last or self._pause(seconds)

        return pause

    def _check(self, deadline: float) -> None:
        if time.monotonic() > deadline:
            raise NotTransferred(f"it took more than {_TRANSFER_TIMEOUT_S:.0f} s")
        if self._pause(0):
            raise NotTransferred("the build is to end")
