"""A build's log: every line is numbered and written to a file first, then sent until the server has it.

What is missing says so where it is missing: of a log that is too long the middle is left out, its last lines are kept;
lines for which the disk has no room are counted.
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
from agent.server import FIRST_PAUSE, LONGEST_PAUSE, GivenUp, Pause, Refused

LINES_PER_REQUEST = 1000
BYTES_PER_REQUEST = 512 * 1024
_BETWEEN_REQUESTS = 0.05
_INDEXED = 256  # the file position of every 256th line is kept
LONGEST = 128 * 1024 * 1024  # bytes of the file; after that only the last lines are kept
LAST_LINES = 2_000
_LAST_BYTES = 2 * 1024 * 1024

Send = Callable[[bytes], int]
"""Takes the body of one request, returns how many lines the server has."""


class Log:
    """
    `add` and `say` never wait for the network: a file without a name, the agent's own, holds what the server
    does not have yet.
    """

    def __init__(self, folder: str, masker: Masker, send: Send, pause: Pause, on_failure: Callable[[], None]) -> None:
        self._masker = masker
        self._send = send
        self._pause = pause
        self._on_failure = on_failure
        self._file = tempfile.TemporaryFile(dir=folder, buffering=0)  # noqa: SIM115 (closed by `close`)
        self._state = threading.Condition()
        self._positions: list[int] = []
        self._last: deque[bytes] = deque()
        self._last_size = self._left_out = self._unwritten = 0
        self._count = self._size = 0
        self._closed = self._abandoned = False
        self._error: Exception | None = None
        # Where the next request begins: a line number and its position in the file.
        self._line = self._position = 0
        self._sender = threading.Thread(target=self._run, name="log", daemon=True)
        self._sender.start()

    def say(self, text: str) -> None:
        """A line of the agent's own."""
        self.add([self._masker.mask_text(line) for line in f"==> {text}".splitlines()])

    def add(self, lines: list[str]) -> None:
        """Lines must be masked already: only their reader sees secrets that lie across a cut."""
        if not lines:
            return
        now = time.time_ns() // 1_000_000
        written = [_encode(now, line) for line in lines]
        with self._state:
            if self._left_out or self._size + sum(map(len, written)) > LONGEST:
                self._hold(written)
            else:
                self._keep(written)
            self._state.notify_all()

    def finish(self) -> int:
        """Wait until the server has every line; how many there are."""
        with self._state:
            if self._left_out > len(self._last):
                self._keep([_notice(f"{self._left_out - len(self._last)} lines were left out: the log was too long")])
            self._keep(list(self._last))
            if self._unwritten:
                self._keep([])
            self._closed = True
            self._state.notify_all()
        self._sender.join()
        if self._error:
            raise self._error
        return self._count

    @property
    def failed(self) -> bool:
        return self._error is not None

    def close(self) -> None:
        """Forget what was not sent."""
        with self._state:
            self._closed = self._abandoned = True
            self._state.notify_all()
        self._sender.join()
        self._file.close()

    def _hold(self, lines: list[bytes]) -> None:
        """Only the last of them, for the end."""
        self._left_out += len(lines)
        for line in lines[-LAST_LINES:]:
            self._last.append(line)
            self._last_size += len(line)
            while len(self._last) > LAST_LINES or self._last_size > _LAST_BYTES:
                self._last_size -= len(self._last.popleft())

    def _keep(self, lines: list[bytes]) -> None:
        if self._unwritten:
            lines = [_notice(f"{self._unwritten} lines are missing: the agent's disk was full"), *lines]
        try:
            self._write(b"".join(lines))
        except OSError:
            os.ftruncate(self._file.fileno(), self._size)
            self._unwritten += len(lines) - bool(self._unwritten)
            return
        self._unwritten = 0
        for line in lines:
            if self._count % _INDEXED == 0:
                self._positions.append(self._size)
            self._count += 1
            self._size += len(line)

    def _write(self, data: bytes) -> None:
        position = self._size
        while data:
            done = os.pwrite(self._file.fileno(), data, position)
            position, data = position + done, data[done:]

    def _run(self) -> None:
        try:
            while self._something_to_send():
                self._send_some()
        except (Refused, GivenUp, OSError) as error:
            self._error = error
            self._on_failure()

    def _something_to_send(self) -> bool:
        with self._state:
            self._state.wait_for(lambda: self._count > self._line or self._closed)
            return self._count > self._line and not self._abandoned

    def _send_some(self) -> None:
        first = self._line
        begun = time.monotonic()
        lines, size = self._read()
        acknowledged = self._post(first, lines)
        if acknowledged == first + len(lines):
            self._line, self._position = acknowledged, self._position + size
        else:
            self._seek(acknowledged)
        # A quiet log goes at once, a busy one in batches, a backlog without pauses.
        if size < BYTES_PER_REQUEST // 2 and len(lines) < LINES_PER_REQUEST:
            with self._state:
                self._state.wait_for(lambda: self._closed, begun + _BETWEEN_REQUESTS - time.monotonic())

    def _post(self, first: int, lines: list[bytes]) -> int:
        body = b'{"offset":%d,"lines":[%b]}' % (first, b",".join(lines))
        wait = FIRST_PAUSE
        while True:
            acknowledged = self._send(body)
            if acknowledged != first:
                return acknowledged
            # It took nothing and asks for the same again: not in a tight circle.
            if self._pause(wait):
                raise GivenUp
            wait = min(wait * 2, LONGEST_PAUSE)

    def _read(self) -> tuple[list[bytes], int]:
        """Whole lines from where the next request begins, and their size in the file."""
        data = os.pread(self._file.fileno(), BYTES_PER_REQUEST, self._position)
        lines = data.split(b"\n", LINES_PER_REQUEST)[:-1]
        return lines, sum(map(len, lines)) + len(lines)

    def _seek(self, line: int) -> None:
        """Go to the line that the server asks for: back when it lost some, ahead when an answer was lost."""
        with self._state:
            line = min(max(line, 0), self._count)
            position = self._positions[line // _INDEXED] if line < self._count else self._size
        for _ in range(line % _INDEXED if line < self._count else 0):
            data = os.pread(self._file.fileno(), BYTES_PER_REQUEST, position)
            position += data.index(b"\n") + 1
        self._line, self._position = line, position


def _notice(text: str) -> bytes:
    return _encode(time.time_ns() // 1_000_000, f"==> {text}")


def _encode(at: int, text: str) -> bytes:
    # A line end inside the text is escaped by JSON, so one written line is one line of the file.
    return json.dumps([at, text], ensure_ascii=False, separators=(",", ":")).encode("utf-8", "replace") + b"\n"
