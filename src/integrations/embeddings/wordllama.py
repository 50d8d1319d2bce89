"""Embeddings by the library wordllama, in a process of its own (`integrations.embeddings.embedding_process`)."""

import array
import asyncio
import contextlib
import importlib.util
import os
import subprocess
import sys
from collections.abc import Sequence

import msgspec

from integrations.embedding_ports import EmbeddingsUnavailable

MODEL = "wordllama-l2-256-weighted-1"
"""Name of the model, which ends with a version. Raise the version when `embedding_process` computes other vectors than
before.
"""
DIMENSIONS = 256
MAX_TEXT = 2_000
"""Number of characters at the beginning of a text from which the text's vector is computed."""
TIMEOUT_S = 30.0
"""Longest time in seconds of one request, including the start of the process, which takes about 1 s."""
IDLE_S = 600.0
"""Seconds without a request after which the process is ended."""
ENVIRONMENT = ("PATH", "PYTHONPATH", "PYTHONHOME", "LD_LIBRARY_PATH")
"""Environment variables that the process inherits. The server's settings are left out, since they contain secrets."""


def is_installed() -> bool:
    """Returns whether the library is installed. Does not import it."""
    return importlib.util.find_spec("wordllama") is not None


class WordLlamaEmbeddings:
    """Implements `Embeddings`. Starts the process when it is first needed. Use it in one event loop only."""

    def __init__(self, idle_s: float = IDLE_S) -> None:
        self._idle_s = idle_s
        self._lock = asyncio.Lock()
        self._process: _ModelProcess | None = None
        self._ending: asyncio.TimerHandle | None = None

    @property
    def model(self) -> str:
        return MODEL

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        if not texts:
            return []
        request = msgspec.msgpack.encode([text[:MAX_TEXT] for text in texts])
        async with self._lock:
            self._cancel_ending()
            process = self._process = self._process or _ModelProcess()
            try:
                async with asyncio.timeout(TIMEOUT_S):
                    answer = await asyncio.to_thread(process.ask, request)
            except (OSError, EOFError, TimeoutError) as error:
                self.close()
                raise EmbeddingsUnavailable(f"the process of the model does not answer: {error!r}") from None
            except BaseException:
                self.close()  # an answer that nobody reads would be taken for that of the next request
                raise
            self._ending = asyncio.get_running_loop().call_later(self._idle_s, self.close)
        numbers = array.array("f", answer)
        if sys.byteorder == "big":
            numbers.byteswap()
        return [numbers[start : start + DIMENSIONS].tolist() for start in range(0, len(numbers), DIMENSIONS)]

    def close(self) -> None:
        self._cancel_ending()
        if self._process is not None:
            self._process.end()
            self._process = None

    def _cancel_ending(self) -> None:
        if self._ending is not None:
            self._ending.cancel()
            self._ending = None


class _ModelProcess:
    def __init__(self) -> None:
        self._is_loaded = False
        self._process = subprocess.Popen(
            [sys.executable, "-P", "-m", "integrations.embeddings.embedding_process"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            env={name: os.environ[name] for name in ENVIRONMENT if name in os.environ},
        )

    def ask(self, request: bytes) -> bytes:
        """Sends a request and returns the answer. Raises EOFError or OSError if the process has ended. Blocks."""
        assert self._process.stdin is not None
        if not self._is_loaded:
            self._receive()
            self._is_loaded = True
        self._process.stdin.write(len(request).to_bytes(4, "big") + request)
        self._process.stdin.flush()
        return self._receive()

    def end(self) -> None:
        """Ends the process. A call of `ask` that is under way then raises."""
        self._process.kill()
        self._process.wait()
        for stream in (self._process.stdin, self._process.stdout):
            with contextlib.suppress(OSError, ValueError):
                if stream is not None:
                    stream.close()

    def _receive(self) -> bytes:
        assert self._process.stdout is not None
        size = self._process.stdout.read(4)
        message = self._process.stdout.read(int.from_bytes(size, "big"))
        if len(size) < 4 or not message:
            raise EOFError
        return message
