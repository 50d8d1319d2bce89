"""Checks the archive of a cache, before it is saved and before `tar` unpacks it.

`tar` runs with the rights of the build's user, so unpacking an archive can do only what the build itself could do. But
another build may have made the archive. So the check refuses files outside of the cache's paths, such as files of the
checkout, or settings in the home folder that programs read. It also refuses members that no cache needs (devices, pipes
and sparse files), and headers that another program could understand differently.
"""

from __future__ import annotations

import os
import re
import tarfile
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import BinaryIO

_BLOCK_BYTES = 512
_CHUNK_BYTES = 1 << 20
_MAX_EXTENSION_BYTES = 64 * 1024  # of a long name or a pax header
_MAX_PATH = 4096  # characters; Linux takes no longer paths
_SHOWN_CHARACTERS = 200
_CODEC = "utf-8", "surrogateescape"
_FILES = (tarfile.REGTYPE, tarfile.AREGTYPE)
_WITHOUT_CONTENT = (tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.DIRTYPE)
_SIZE = re.compile(rb" *[0-7]+[ \0]*|\x80.*", re.DOTALL)
_GNU_MAGIC = b"ustar  \0"  # in its headers, other fields are where POSIX headers have the beginning of the name
_EXTENSIONS = {tarfile.GNUTYPE_LONGNAME: "path", tarfile.GNUTYPE_LONGLINK: "linkpath"}


class BadArchive(Exception):
    """An archive must not be unpacked. The message says why."""


def check_archive(file: BinaryIO, paths: Sequence[str], folder: Path) -> None:
    """Check the headers of a tar archive that is to be unpacked in `folder`. Raises `BadArchive` if the archive is not
    whole, or has members other than files, folders and links at or below `paths`.

    A symbolic link may lead anywhere, but no member may be unpacked through it. Nor may a member be unpacked through a
    link that `folder` already has below one of the paths.
    """
    names = _Names(paths, folder)
    file.seek(0)
    extended: dict[str, str] = {}
    while any(block := file.read(_BLOCK_BYTES)):
        try:
            member = tarfile.TarInfo.frombuf(block, *_CODEC)
        except tarfile.HeaderError as error:
            raise BadArchive(f"it is damaged ({error})") from None
        if not _SIZE.fullmatch(block[124:136]) or (block[257:265] == _GNU_MAGIC and any(block[345:500])):
            raise BadArchive("a header is damaged")
        if member.type in _EXTENSIONS or member.type == tarfile.XHDTYPE:
            if not 0 <= member.size <= _MAX_EXTENSION_BYTES:
                raise BadArchive("a header is too large")
            content = file.read(_pad(member.size))[: member.size]
            if member.type == tarfile.XHDTYPE:
                more = dict(_parse_pax(content))
            else:
                more = {_EXTENSIONS[member.type]: content.rstrip(b"\0").decode(*_CODEC)}
            if more.keys() & extended.keys():  # programs differ in which of them counts
                raise BadArchive("a header is there twice")
            extended.update(more)
            continue
        _check_member(member, extended, names)
        extended = {}
        file.seek(_pad(member.size), os.SEEK_CUR)
    if len(block) < _BLOCK_BYTES:
        raise BadArchive("it ends too early")
    while rest := file.read(_CHUNK_BYTES):
        if any(rest):
            raise BadArchive("something comes after its end")


def _check_member(member: tarfile.TarInfo, extended: dict[str, str], names: _Names) -> None:
    name = extended.get("path", member.name)
    shown = repr(name[:_SHOWN_CHARACTERS])
    if any(key == "size" or key.startswith("GNU.sparse") for key in extended):
        raise BadArchive(f"{shown} is sparse or too large")
    if member.type not in _FILES + _WITHOUT_CONTENT:
        raise BadArchive(f"{shown} is no file, folder or link")
    if member.size < 0 or (member.size and member.type in _WITHOUT_CONTENT):
        raise BadArchive(f"{shown} has a wrong size")
    path = names.check(name)
    if member.type == tarfile.SYMTYPE:
        names.add_link(path)
    if member.type == tarfile.LNKTYPE and names.is_link(names.check(extended.get("linkpath", member.linkname))):
        names.add_link(path)


class _Names:
    """Names that the members of one archive may have."""

    def __init__(self, paths: Sequence[str], folder: Path) -> None:
        self._allowed = sorted((os.path.normpath(path) for path in paths), key=len)
        self._folder = folder
        self._is_link: dict[str, bool] = {}

    def check(self, name: str) -> str:
        """Return the normalized name. Raises `BadArchive` if the name is not at or below one of the paths, or if it is
        below a link.
        """
        path = os.path.normpath(name)
        outer = next((one for one in self._allowed if path == one or path.startswith(f"{one}/")), None)
        if outer is None or "\0" in name or ".." in name.split("/") or len(name) > _MAX_PATH:
            raise BadArchive(f"{name[:_SHOWN_CHARACTERS]!r} is none of its paths")
        end = path.find("/", len(outer))
        while end >= 0:
            if self.is_link(path[:end]):
                raise BadArchive(f"{name[:_SHOWN_CHARACTERS]!r} leads through a link")
            end = path.find("/", end + 1)
        return path

    def add_link(self, path: str) -> None:
        self._is_link[path] = True

    def is_link(self, path: str) -> bool:
        if path not in self._is_link:
            self._is_link[path] = os.path.islink(self._folder / path)
        return self._is_link[path]


def _parse_pax(content: bytes) -> Iterator[tuple[str, str]]:
    """Yield the keyword and the value of each record of a pax header. A record is like `20 path=workspace/a\\n`, where
    20 is the length of the record. Raises `BadArchive` if a record has another form.
    """
    while content:
        digits = content.partition(b" ")[0]
        length = int(digits) if digits.isdigit() and len(digits) < 7 else 0
        if not len(digits) < length <= len(content):
            raise BadArchive("a header is damaged")
        keyword, _, value = content[len(digits) + 1 : length - 1].partition(b"=")
        yield keyword.decode(*_CODEC), value.decode(*_CODEC)
        content = content[length:]


def _pad(size: int) -> int:
    """Return `size`, a number of bytes, rounded up to whole blocks. The content of a member fills whole blocks."""
    return -(-size // _BLOCK_BYTES) * _BLOCK_BYTES
