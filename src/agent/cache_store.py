"""Keeps the caches of builds in a folder of the agent. When all caches together are too large, removes those that were
used longest ago.

A cache is an archive. Its file name contains the hash of its contents. So an archive that a crash or a bad disk has
damaged is recognised, and never unpacked. Each cache scope has a folder: a build finds only caches of the scopes that
the server names for this build.
"""

from __future__ import annotations

import contextlib
import hashlib
import os
import re
import tempfile
import threading
from pathlib import Path
from typing import IO

DEFAULT_LIMIT_GB = 10
_CHUNK_BYTES = 1 << 20
_SCOPE = re.compile(r"[A-Za-z0-9-]{1,100}")
_UNFINISHED = "unfinished-"


class CacheStore:
    """Folder of cached archives that only the agent can enter. Thread-safe."""

    def __init__(self, folder: Path, limit_bytes: int) -> None:
        self._folder = folder
        self.limit_bytes = limit_bytes
        self._lock = threading.Lock()

    def prepare(self) -> None:
        """Create the folder. Remove incomplete files of an agent that was killed while it saved a cache. If the
        archives together exceed the limit, remove those that were used longest ago.
        """
        self._folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        self._folder.chmod(0o700)
        for path in self._folder.glob(f"*/{_UNFINISHED}*"):
            path.unlink(missing_ok=True)
        self._shrink()

    def copy_to(self, scope: str, key: str, target: Path) -> bool:
        """Copy the archive that `scope` has under `key` to a new file, `target`, which any user may read. Return True.

        If there is no such archive, create no file and return False. A damaged archive is removed and counts as none.
        """
        found = self._find(scope, key)
        if not found:
            return False
        with found.open("rb") as source, target.open("xb") as copy:
            digest = _copy(source, copy)
        target.chmod(0o644)
        if not found.stem.endswith(digest):
            found.unlink(missing_ok=True)
            target.unlink()
            return False
        with contextlib.suppress(OSError):
            os.utime(found)
        return True

    def save(self, scope: str, key: str, archive: IO[bytes]) -> str:
        """Store an archive in `scope` under `key`, and return the SHA-256 of the archive. Removes an earlier archive
        with this key. After a crash the new archive is stored completely or not at all.
        """
        archive.seek(0)
        folder = self._scope(scope)
        with self._lock:  # `_shrink` removes empty folders
            folder.mkdir(mode=0o700, exist_ok=True)
            copy = tempfile.NamedTemporaryFile(dir=folder, prefix=_UNFINISHED, delete=False)  # noqa: SIM115
        with copy:
            path = Path(copy.name)
            try:
                digest = _copy(archive, copy)
                copy.flush()
                os.fsync(copy.fileno())
                stored = path.rename(folder / f"{_name(key)}-{digest}.tar")
            except BaseException:
                path.unlink(missing_ok=True)
                raise
        for earlier in folder.glob(f"{_name(key)}-*.tar"):
            if earlier != stored:
                earlier.unlink(missing_ok=True)
        self._shrink()
        return digest

    def _shrink(self) -> None:
        """Remove the archives that were used longest ago, until the others together have at most `limit_bytes`. Also
        remove the folders of scopes that have no archive left: otherwise every branch that ever saved a cache would
        keep a folder.
        """
        with self._lock:
            self._remove_oldest()
            for folder in self._folder.iterdir():
                with contextlib.suppress(OSError):  # it is not empty
                    folder.rmdir()

    def _remove_oldest(self) -> None:
        states = [(path.stat(), path) for path in self._folder.glob("*/*.tar")]
        size = sum(state.st_size for state, _ in states)
        for state, path in sorted(states, key=lambda item: item[0].st_mtime_ns):
            if size <= self.limit_bytes:
                return
            path.unlink(missing_ok=True)
            size -= state.st_size

    def _find(self, scope: str, key: str) -> Path | None:
        return next(self._scope(scope).glob(f"{_name(key)}-*.tar"), None)

    def _scope(self, scope: str) -> Path:
        if not _SCOPE.fullmatch(scope):
            raise ValueError(f"{scope!r} is no scope of caches")
        return self._folder / scope


def _name(key: str) -> str:
    return hashlib.sha256(key.encode("utf-8", "replace")).hexdigest()


def _copy(source: IO[bytes], target: IO[bytes]) -> str:
    """Copy a file and return the SHA-256 of its contents."""
    hashed = hashlib.sha256()
    while chunk := source.read(_CHUNK_BYTES):
        hashed.update(chunk)
        target.write(chunk)
    return hashed.hexdigest()
