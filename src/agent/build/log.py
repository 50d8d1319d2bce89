"""Sends a build's log. Each line gets a number, is written to a file, and is sent until the server has stored it.

A log that is too long lacks lines in its middle, since its last lines are kept. Every log lacks the lines that came
while the disk was full. Wherever lines are missing, a line from the agent says how many.
"""

from __future__ import annotations

import json
import os
import tempfile
import threading
import time
from collections import deque
from collections.abc import Callable

from agent.build.masking import Masker
from agent.server_client import (
    FIRST_PAUSE_S,
    LONGEST_PAUSE_S,
    RequestAbandoned,
    RequestRefused,
    TokenRefused,
)
from agent.server_request import RetryPause

MAX_REQUEST_LINES = 1000
MAX_REQUEST_BYTES = 512 * 1024
_MIN_REQUEST_INTERVAL_S = 0.05  # between two requests while there are few new lines
_INDEX_INTERVAL = 256
"""For one line in this many lines, the agent stores the position in the file. When the server asks for an earlier line,
the agent searches for this line from the nearest stored position before it.
"""
MAX_FILE_BYTES = 128 * 1024 * 1024
"""Largest size in bytes of the file with a build's log. Lines that come when the file is full are only in memory, which
holds the last of them: at most `LAST_LINES` lines and `_LAST_BYTES` bytes.
"""
LAST_LINES = 2_000
_LAST_BYTES = 2 * 1024 * 1024

SendLog = Callable[[bytes], int]
"""Sends the body of one request with lines of the log. Returns the number of lines, counted from the beginning of the
log, that the server has stored without a gap.
"""


class Log:
    """Sends a build's log from a thread of its own. Thread-safe: `add` and `note` never wait for the network."""

    def __init__(
        self, folder: str, masker: Masker, send: SendLog, pause: RetryPause, on_failure: Callable[[Exception], None]
    ) -> None:
        self._masker = masker
        self._send = send
        self._pause = pause
        self._on_failure = on_failure
        self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 (closed by `close`)
        self._state = threading.Condition()
        self._count = self._size = 0  # lines and bytes in the file
        self._positions: list[int] = []
        self._last: deque[bytes] = deque()
        self._last_size = 0
        self._beyond_limit = 0  # lines that came after the file was full, whether they are in `_last` or not
        self._unwritten = 0  # lines that the disk had no space for, since the last line that was written
        self._closed = self._abandoned = False
        self._error: Exception | None = None
        self._next_line = self._next_position = 0  # where the next request begins, and that line's file position
        self._sender = threading.Thread(target=self._send_until_closed, name="log", daemon=True)
        self._sender.start()

    def note(self, text: str) -> None:
        """Add a message from the agent, with the mark `==> ` and with secrets masked."""
        self.add([self._masker.mask_text(line) for line in f"==> {text}".splitlines()])

    def add(self, lines: list[str]) -> None:
        """Add lines in which secrets are already masked. `LineReader` masks them, since only it can find a secret that
        lies across the cut in a line that is too long.
        """
        if not lines:
            return
        now = time.time_ns() // 1_000_000
        encoded = [_encode(now, line) for line in lines]
        with self._state:
            if self._beyond_limit or self._size + sum(map(len, encoded)) > MAX_FILE_BYTES:
                self._keep_last(encoded)
            else:
                self._write(encoded)
            self._state.notify_all()

    def finish(self) -> int:
        """Wait until the server has every line. Return the number of lines. If the sending ended with an error, raises
        that error.
        """
        with self._state:
            if self._beyond_limit > len(self._last):
                self._write(
                    [_encode_note(f"{self._beyond_limit - len(self._last)} lines were left out: the log was too long")]
                )
            self._write(list(self._last))
            if self._unwritten:
                self._write([])
            self._closed = True
            self._state.notify_all()
        self._sender.join()
        if self._error:
            raise self._error
        return self._count

    @property
    def has_failed(self) -> bool:
        return self._error is not None

    def close(self) -> None:
        """Stop sending. Delete the file, with any lines that were not sent."""
        with self._state:
            self._closed = self._abandoned = True
            self._state.notify_all()
        self._sender.join()
        self._file.close()

    def _keep_last(self, lines: list[bytes]) -> None:
        self._beyond_limit += len(lines)
        for line in lines[-LAST_LINES:]:
            self._last.append(line)
            self._last_size += len(line)
            while len(self._last) > LAST_LINES or self._last_size > _LAST_BYTES:
                self._last_size -= len(self._last.popleft())

    def _write(self, lines: list[bytes]) -> None:
        """Write the lines to the file. If the disk is full, only count them."""
        if self._unwritten:
            lines = [_encode_note(f"{self._unwritten} lines are missing: the agent's disk was full"), *lines]
        try:
            position, data = self._size, b"".join(lines)
            while data:
                written = os.pwrite(self._file.fileno(), data, position)
                position, data = position + written, data[written:]
        except OSError:
            os.ftruncate(self._file.fileno(), self._size)
            self._unwritten += len(lines) - bool(self._unwritten)
            return
        self._unwritten = 0
        for line in lines:
            if self._count % _INDEX_INTERVAL == 0:
                self._positions.append(self._size)
            self._count += 1
            self._size += len(line)

    def _send_until_closed(self) -> None:
        try:
            while self._wait_for_lines():
                self._send_lines()
        except (RequestRefused, TokenRefused, RequestAbandoned, OSError) as error:
            self._error = error
            self._on_failure(error)

    def _wait_for_lines(self) -> bool:
        """Wait for lines to send, and return True. Return False when the log is closed and all lines are sent or given
        up.
        """
        with self._state:
            self._state.wait_for(lambda: self._count > self._next_line or self._closed)
            return self._count > self._next_line and not self._abandoned

    def _send_lines(self) -> None:
        first = self._next_line
        begun = time.monotonic()
        lines, size = self._read()
        acknowledged = self._post(first, lines)
        if acknowledged == first + len(lines):
            self._next_line, self._next_position = acknowledged, self._next_position + size
        else:
            self._seek(acknowledged)
        # After a small request, new lines are collected for the rest of the interval. A backlog is sent without pauses.
        if size < MAX_REQUEST_BYTES // 2 and len(lines) < MAX_REQUEST_LINES:
            with self._state:
                self._state.wait_for(lambda: self._closed, begun + _MIN_REQUEST_INTERVAL_S - time.monotonic())

    def _post(self, first: int, lines: list[bytes]) -> int:
        body = b'{"offset":%d,"lines":[%b]}' % (first, b",".join(lines))
        wait = FIRST_PAUSE_S
        while True:
            acknowledged = self._send(body)
            if acknowledged != first:
                return acknowledged
            # The server stored nothing and asks for the same lines again: pause as after a failure.
            if self._pause(wait):
                raise RequestAbandoned
            wait = min(wait * 2, LONGEST_PAUSE_S)

    def _read(self) -> tuple[list[bytes], int]:
        """Return the lines to send in the next request, and their size in the file in bytes."""
        data = os.pread(self._file.fileno(), MAX_REQUEST_BYTES, self._next_position)
        lines = data.split(b"\n", MAX_REQUEST_LINES)[:-1]
        return lines, sum(map(len, lines)) + len(lines)

    def _seek(self, line: int) -> None:
        """Go on sending with the line that the server asks for. It is an earlier line if the server has lost lines, and
        a later one if an answer of the server was lost.
        """
        with self._state:
            line = min(max(line, 0), self._count)
            position = self._positions[line // _INDEX_INTERVAL] if line < self._count else self._size
        for _ in range(line % _INDEX_INTERVAL if line < self._count else 0):
            data = os.pread(self._file.fileno(), MAX_REQUEST_BYTES, position)
            position += data.index(b"\n") + 1
        self._next_line, self._next_position = line, position


def _encode_note(text: str) -> bytes:
    return _encode(time.time_ns() // 1_000_000, f"==> {text}")


def _encode(at_ms: int, text: str) -> bytes:
    # JSON escapes a line end inside the text: one log line is always one line of the file.
    return json.dumps([at_ms, text], ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace") + b"\n"
