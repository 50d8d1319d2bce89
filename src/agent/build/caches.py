"""Restores a build's caches before its setup lines run. After the build has passed, saves the caches that were found
neither on this agent nor on the server.

A build saves caches in the cache scope of its branch. Caches that this scope lacks are restored from the fallback
scope, which is that of the job's default branch. A cache that this agent does not have may come from the server, to
which other agents have sent it.

`tar` packs and unpacks the caches with the rights of the build's user. So a link in the repository or in an archive
leads `tar` only to files that the build itself could reach. The archive is a file of the agent, which no process of the
build can open for writing: `tar` writes it as its standard output. An archive is unpacked only if all its members are
at or below the cache's paths.
"""

from __future__ import annotations

import hashlib
import os
import platform
import re
import time
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, BinaryIO

from agent.build.artifacts import UnusablePath, open_inside
from agent.build.build_client import file_size
from agent.build.cache_archive import BadArchive, check_archive
from agent.build.cache_transfer import CacheTransfer, NotTransferred
from agent.build.collection import show_path
from agent.build.workspace import Workspace
from agent.cache_store import CacheStore

CHECKSUM = re.compile(r"""\{\{ *checksum +"([^"{}]+)" *\}\}""")
_CHUNK_BYTES = 1 << 20
_MIB = 1 << 20

RunTar = Callable[[Sequence[str], str], bool]
"""Runs a command line as the build's user in the workspace. The second argument is the file for its standard output; if
it is empty, the output goes to the log. Returns whether the command ended with exit code 0.
"""


@dataclass
class Caches:
    _store: CacheStore
    _transfer: CacheTransfer
    _scope: str
    _fallback: str | None
    """Cache scope from which to restore caches that `_scope` lacks. None if the server names no such scope."""
    _wanted: Sequence[Mapping[str, Any]]
    _workspace: Workspace
    _run: RunTar
    _note: Callable[[str], None]

    def __post_init__(self) -> None:
        self._missing: list[tuple[str, list[str]]] = []
        """Key and paths of each cache to save after the build."""
        self._folder = self._workspace.folder

    @property
    def are_missing(self) -> bool:
        """Whether there are caches to save after the build."""
        return bool(self._missing)

    def restore(self) -> None:
        """Unpack the caches that this agent or the server has. If a cache is damaged or cannot be unpacked, the build
        goes on without it.
        """
        for number, cache in enumerate(self._wanted):
            try:
                key = CHECKSUM.sub(self._hash_file, cache["key"])
                self._restore(key, cache["paths"], self._folder / f"cache-{number}.tar")
            except (UnusablePath, OSError) as why:
                self._note(f"Cache {show_path(cache['key'])} is not used: {why}")

    def save(self) -> None:
        """Save the caches that `restore` has not found. They are saved on this agent, and sent to the server. This
        method must be called after the build's processes have ended.
        """
        for number, (key, paths) in enumerate(self._missing):
            try:
                self._save(key, paths, self._folder / f"saved-cache-{number}.tar")
            except OSError as error:
                self._note(f"Cache {key}: not saved: {error}")

    def _restore(self, key: str, wanted: Sequence[str], archive: Path) -> None:
        began = time.monotonic()
        paths = [_below_folder(path) for path in wanted]
        source, why = self._find(key, paths, archive)
        if not source:
            self._note(f"Cache {key}: not on this agent yet{why}")
            self._missing.append((key, paths))
            return
        if self._tar('exec tar -x -o -f "$1"', str(archive)):
            size = f"{archive.stat().st_size / _MIB:.1f} MiB"
            self._note(f"Cache {key}: restored from {source}, {size} in {time.monotonic() - began:.1f} s")
        else:
            self._note(f"Cache {key}: not all of it could be unpacked")
        archive.unlink()

    def _find(self, key: str, paths: Sequence[str], archive: Path) -> tuple[str, str]:
        """Write the cache into the new file `archive`. Return two texts: the source of the cache, such as `the server`,
        and an empty text. If no cache is found, leave no file; the first text is empty, and the second is the end of a
        sentence that says why.
        """
        whys = []
        for scope in (self._scope, self._fallback):
            if scope is None:
                continue
            of_branch = "" if scope == self._scope else " (default branch)"
            if self._copy(scope, key, paths, archive):
                return f"this agent{of_branch}", ""
            why = self._fetch(scope, key, paths, archive)
            if not why:
                return f"the server{of_branch}", ""
            whys.append(why)
        return "", whys[0]

    def _copy(self, scope: str, key: str, paths: Sequence[str], archive: Path) -> bool:
        """Copy this agent's archive of the cache to a new file, and return True. If there is no archive, or it must not
        be unpacked, leave no file and return False.
        """
        if not self._store.copy_to(scope, _with_paths(key, paths), archive):
            return False
        try:
            with archive.open("rb") as file:
                check_archive(file, paths, self._folder)
        except BadArchive as why:
            self._note(f"Cache {key}: the one on this agent is not used: {why}")
            archive.unlink()
            return False
        return True

    def _fetch(self, scope: str, key: str, paths: Sequence[str], archive: Path) -> str:
        """Fetch the cache from the server into a new file, save it on this agent, and return an empty text. If there is
        no cache to fetch, leave no file and return the end of a sentence that says why.
        """
        if not self._transfer.limit_bytes:
            return ", and the server keeps none"
        why = ", nor on the server"
        try:
            with archive.open("x+b") as file:
                if self._transfer.fetch(_name_on_server(key, paths), scope != self._scope, file):
                    file.flush()
                    check_archive(file, paths, self._folder)
                    self._store.save(scope, _with_paths(key, paths), file)
                    archive.chmod(0o644)
                    return ""
        except (NotTransferred, BadArchive) as error:
            why = f", and not from the server: {error}"
        archive.unlink()
        return why

    def _save(self, key: str, paths: Sequence[str], path: Path) -> None:
        found = [name for name in paths if os.path.lexists(self._folder / name)]
        if not found:
            self._note(f"Cache {key}: not saved, since none of its paths is there")
            return
        try:
            with path.open("x+b") as archive:
                blocks = self._store.limit_bytes // 512  # the unit of `ulimit -f`
                if not self._tar(f'ulimit -f {blocks} && exec tar -c -f - -- "$@"', *found, output=str(path)):
                    self._note(f"Cache {key}: not saved, since it could not be packed")
                    return
                check_archive(archive, paths, self._folder)
                digest = self._store.save(self._scope, _with_paths(key, paths), archive)
                sent = self._send(key, paths, digest, archive)
                self._note(f"Cache {key}: saved, {file_size(archive) / _MIB:.1f} MiB{sent}")
        except BadArchive as why:
            self._note(f"Cache {key}: not saved: {why}")
        finally:
            path.unlink(missing_ok=True)

    def _send(self, key: str, paths: Sequence[str], digest: str, archive: BinaryIO) -> str:
        """Send a saved cache to the server. Return the end of a sentence that says whether it was sent; empty if the
        server keeps no caches.
        """
        if not self._transfer.limit_bytes:
            return ""
        began = time.monotonic()
        try:
            self._transfer.send(_name_on_server(key, paths), digest, archive)
        except NotTransferred as why:
            return f", not sent to the server: {why}"
        return f", and sent to the server in {time.monotonic() - began:.1f} s"

    def _tar(self, command: str, *arguments: str, output: str = "") -> bool:
        # `cd` instead of `tar -C`: the build's user may enter the folder, but may not list it, as `tar -C` does.
        return self._run(["/bin/sh", "-c", f'cd -- "$0" && {command}', str(self._folder), *arguments], output)

    def _hash_file(self, part: re.Match[str]) -> str:
        account = self._workspace.account
        hashed = hashlib.sha256()
        try:
            with open_inside(str(self._workspace.root), part[1], account.uid if account else None) as file:
                while chunk := file.read(_CHUNK_BYTES):
                    hashed.update(chunk)
        except UnusablePath as why:
            raise UnusablePath(f"{part[1]}: {why}") from None
        return hashed.hexdigest()


def _below_folder(path: str) -> str:
    """Return the path of a cache relative to the folder that has the workspace and the home folder."""
    return f"home/{path[2:]}" if path.startswith("~/") else f"workspace/{path}"


def _with_paths(key: str, paths: Sequence[str]) -> str:
    return "\0".join([key, *paths])


def _name_on_server(key: str, paths: Sequence[str]) -> str:
    """Return the name of a cache on the server. The name depends on the platform and the C library, since programs for
    another platform or C library do not run here.
    """
    kind = "-".join((platform.system(), platform.machine(), *platform.libc_ver()))
    return hashlib.sha256("\0".join([kind, key, *paths]).encode("utf-8", "replace")).hexdigest()
