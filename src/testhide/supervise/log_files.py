"""A log file that stays below twice its limit."""

from __future__ import annotations

import os
from pathlib import Path


class BoundedFile:
    """Renames itself to NAME.1 at `limit` bytes and begins anew. Drops lines when the disk is full."""

    def __init__(self, path: Path, limit: int = 4 * 2**20) -> None:
        self._path = path
        self._limit = limit
        self._open()

    def write(self, content: bytes) -> None:
        try:
            if self._size + len(content) > self._limit:
                os.close(self._file)
                self._path.replace(self._path.with_name(self._path.name + ".1"))
                self._open()
            self._size += os.write(self._file, content)
        except OSError:
            return

    def close(self) -> None:
        os.close(self._file)

    def _open(self) -> None:
        self._file = os.open(self._path, os.O_WRONLY | os.O_CREAT | os.O_APPEND | os.O_CLOEXEC, 0o600)
        self._size = os.fstat(self._file).st_size
