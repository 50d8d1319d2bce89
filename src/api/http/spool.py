"""Spool: a folder for files while they are being uploaded. Their total size is limited.

Several processes may use the folder. Each holds a lock (flock) on every file that it receives, so a file without a lock
is one that a killed process has left.
"""

import errno
import fcntl
import os
from collections import Counter
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass, field
from pathlib import Path
from tempfile import NamedTemporaryFile
from typing import IO

from domain.core.errors import StorageFull, Unavailable

MAX_SPOOLED_BYTES = 16 * 1024**3
"""Largest total size in bytes of the files that one process receives at the same time. A single upload may have 2
GiB.
"""
MAX_SHARE = 0.5
"""Largest part of the spool, from 0 to 1, that the uploads of one project may use."""


@dataclass
class Spool:
    folder: Path
    max_bytes: int = MAX_SPOOLED_BYTES
    _used: Counter[int] = field(default_factory=Counter)
    """Project id -> total size in bytes of its files in the spool."""

    def used_by(self, project_id: int) -> int:
        return self._used[project_id]

    @contextmanager
    def open(self, prefix: str) -> Iterator["SpooledFile"]:
        """Yields a new file in the spool, and deletes it when the block ends. Raises StorageFull if the disk is
        full.
        """
        try:
            with self._create(prefix) as file:
                spooled = SpooledFile(self, file)
                try:
                    yield spooled
                finally:
                    self._add(spooled.project_id, -spooled.size)
        except OSError as error:  # also when closing the file writes its last bytes
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise StorageFull("data folder") from error
            raise

    def remove_abandoned(self) -> None:
        """Removes the files that killed processes have left in the folder."""
        with self._lock_folder(fcntl.LOCK_EX):
            for path in self.folder.iterdir():
                with suppress(FileNotFoundError, BlockingIOError), path.open("rb") as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    path.unlink()

    def _create(self, prefix: str) -> IO[bytes]:
        # Otherwise another process could find the file before it is locked, and remove it.
        with self._lock_folder(fcntl.LOCK_SH):
            file = NamedTemporaryFile(dir=self.folder, prefix=prefix)  # noqa: SIM115 (the caller closes it)
            fcntl.flock(file, fcntl.LOCK_EX)
        return file

    @contextmanager
    def _lock_folder(self, operation: int) -> Iterator[None]:
        folder = os.open(self.folder, os.O_RDONLY)
        try:
            fcntl.flock(folder, operation)
            yield
        finally:
            os.close(folder)

    def reserve(self, project_id: int, size: int) -> None:
        """Reserves room in the spool for `size` more bytes of a project. Raises Unavailable if the spool, or the
        project's share of it, has too little room.
        """
        if self._used.total() + size > self.max_bytes or self._used[project_id] + size > self.max_bytes * MAX_SHARE:
            raise Unavailable("Too many bytes are being uploaded at the moment; send this file again later.")
        self._add(project_id, size)

    def _add(self, project_id: int, size: int) -> None:
        self._used[project_id] += size
        if not self._used[project_id]:
            del self._used[project_id]


@dataclass
class SpooledFile:
    """A file that is being uploaded for a project. Set `project_id` before the first `write`."""

    spool: Spool
    file: IO[bytes]
    project_id: int = 0
    size: int = 0

    @property
    def path(self) -> Path:
        return Path(self.file.name)

    def write(self, chunk: bytes) -> None:
        """Appends a chunk to the file. Raises Unavailable if the spool has no room for the chunk."""
        self.spool.reserve(self.project_id, len(chunk))
        self.size += len(chunk)
        self.file.write(chunk)

    def flush(self) -> None:
        self.file.flush()
