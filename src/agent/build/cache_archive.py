"""Checks an archive that came from the server, before `tar` unpacks it.

`tar` runs with the rights of the build's user, so an archive cannot do what the build itself could not. The check keeps
it within the paths of its cache all the same, and keeps out what no cache needs: devices, pipes and sparse files.
"""

from __future__ import annotations

import os
import tarfile
from collections.abc import Iterator, Sequence
from typing import BinaryIO

_BLOCK_BYTES = 512
_CHUNK_BYTES = 1 << 20
_MAX_EXTENSION_BYTES = 64 * 1024  # of a long name or a pax header; paths of Linux have 4096 bytes
_SHOWN_CHARACTERS = 200
_CODEC = "utf-8", "surrogateescape"
_FILES = (tarfile.REGTYPE, tarfile.AREGTYPE)
_WITHOUT_CONTENT = (tarfile.LNKTYPE, tarfile.SYMTYPE, tarfile.DIRTYPE)
_EXTENSIONS = {tarfile.GNUTYPE_LONGNAME: "path", tarfile.GNUTYPE_LONGLINK: "linkpath"}


class BadArchive(Exception):
    """An archive is not unpacked. The message says why."""


def check_archive(file: BinaryIO, paths: Sequence[str]) -> None:
    """Read the headers of a tar archive. Raises `BadArchive` unless it has only files, folders and links below `paths`,
    and is whole. A symbolic link may lead anywhere.
    """
    allowed = [os.path.normpath(path) for path in paths]
    file.seek(0)
    extended: dict[str, str] = {}
    while any(block := file.read(_BLOCK_BYTES)):
        try:
            member = tarfile.TarInfo.frombuf(block, *_CODEC)
        except tarfile.HeaderError as error:
            raise BadArchive(f"it is damaged ({error})") from None
        if member.type in _EXTENSIONS or member.type == tarfile.XHDTYPE:
            if not 0 <= member.size <= _MAX_EXTENSION_BYTES:
                raise BadArchive("a header is too large")
            content = file.read(_pad(member.size))[: member.size]
            if member.type == tarfile.XHDTYPE:
                extended.update(_parse_pax(content))
            else:
                extended[_EXTENSIONS[member.type]] = content.rstrip(b"\0").decode(*_CODEC)
            continue
        _check_member(member, extended, allowed)
        extended = {}
        file.seek(_pad(member.size), os.SEEK_CUR)
    if len(block) < _BLOCK_BYTES:
        raise BadArchive("it ends too early")
    while rest := file.read(_CHUNK_BYTES):
        if any(rest):
            raise BadArchive("something comes after its end")


def _check_member(member: tarfile.TarInfo, extended: dict[str, str], allowed: Sequence[str]) -> None:
    name = extended.get("path", member.name)
    shown = repr(name[:_SHOWN_CHARACTERS])
    if any(key == "size" or key.startswith("GNU.sparse") for key in extended):
        raise BadArchive(f"{shown} is sparse or too large")
    if member.type not in _FILES + _WITHOUT_CONTENT:
        raise BadArchive(f"{shown} is no file, folder or link")
    if member.size < 0 or (member.size and member.type in _WITHOUT_CONTENT):
        raise BadArchive(f"{shown} has a wrong size")
    named = [name]
    if member.type == tarfile.LNKTYPE:
        named.append(extended.get("linkpath", member.linkname))
    for path in named:
        if not _is_below(path, allowed):
            raise BadArchive(f"{path[:_SHOWN_CHARACTERS]!r} is none of its paths")


def _is_below(path: str, allowed: Sequence[str]) -> bool:
    if ".." in path.split("/"):
        return False
    path = os.path.normpath(path)
    return any(path == folder or path.startswith(f"{folder}/") for folder in allowed)


def _parse_pax(content: bytes) -> Iterator[tuple[str, str]]:
    """Yield keyword and value of each record: `21 path=workspace/a\\n`, where 21 is the length of the record."""
    while content:
        digits = content.partition(b" ")[0]
        length = int(digits) if digits.isdigit() and len(digits) < 7 else 0
        if not len(digits) < length <= len(content):
            raise BadArchive("a header is damaged")
        keyword, _, value = content[len(digits) + 1 : length - 1].partition(b"=")
        yield keyword.decode(*_CODEC), value.decode(*_CODEC)
        content = content[length:]


def _pad(size: int) -> int:
    """Return the size of the blocks that contain `size` bytes."""
    return -(-size // _BLOCK_BYTES) * _BLOCK_BYTES
