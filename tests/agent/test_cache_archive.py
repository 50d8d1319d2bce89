"""Archives from the server: unpacked only if all their members belong to the cache."""

from __future__ import annotations

import io
import tarfile
from typing import Any

import pytest

from agent.build.cache_archive import BadArchive, check_archive

PATHS = ["workspace/deps", "home/./.cache/pip"]
LONG = "workspace/deps/" + "/".join(["ä" * 60] * 5)


def archive(*members: tuple[str, dict[str, Any]], format: int = tarfile.GNU_FORMAT) -> io.BytesIO:
    file = io.BytesIO()
    with tarfile.open(fileobj=file, mode="w", format=format) as tar:
        for name, fields in members:
            member = tarfile.TarInfo(name)
            for field, value in fields.items():
                setattr(member, field, value)
            tar.addfile(member, io.BytesIO(bytes(member.size)) if member.isreg() else None)
    return file


@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT, tarfile.USTAR_FORMAT])
def test_files_folders_and_links_of_a_cache_are_unpacked(format: int) -> None:
    long = [(LONG, {"size": 700}), (f"{LONG}/link", {"type": tarfile.SYMTYPE, "linkname": LONG})]
    check_archive(
        archive(
            ("workspace/deps/", {"type": tarfile.DIRTYPE}),
            ("workspace/deps/a", {"size": 513}),
            ("workspace/deps/python", {"type": tarfile.SYMTYPE, "linkname": "/usr/bin/python3"}),
            ("workspace/deps/b", {"type": tarfile.LNKTYPE, "linkname": "workspace/deps/a"}),
            ("home/.cache/pip/empty", {}),
            *(long if format != tarfile.USTAR_FORMAT else ()),
            format=format,
        ),
        PATHS,
    )


@pytest.mark.parametrize(
    ("name", "fields", "why"),
    [
        ("workspace/src/a.py", {}, "none of its paths"),
        ("workspace/depsx", {}, "none of its paths"),
        ("/workspace/deps/a", {}, "none of its paths"),
        ("workspace/deps/../../home/.profile", {}, "none of its paths"),
        ("x/" * 200 + "a", {}, "none of its paths"),
        ("workspace/deps/a", {"type": tarfile.LNKTYPE, "linkname": "workspace/.git/config"}, "none of its paths"),
        ("workspace/deps/a", {"type": tarfile.LNKTYPE, "linkname": "/etc/passwd"}, "none of its paths"),
        ("workspace/deps/a", {"type": tarfile.CHRTYPE}, "no file, folder or link"),
        ("workspace/deps/a", {"type": tarfile.BLKTYPE}, "no file, folder or link"),
        ("workspace/deps/a", {"type": tarfile.FIFOTYPE}, "no file, folder or link"),
        ("workspace/deps/a", {"type": tarfile.GNUTYPE_SPARSE}, "no file, folder or link"),
    ],
)
@pytest.mark.parametrize("format", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_anything_else_is_refused(name: str, fields: dict[str, Any], why: str, format: int) -> None:
    with pytest.raises(BadArchive, match=why):
        check_archive(archive(("workspace/deps/a", {}), (name, fields), format=format), PATHS)


@pytest.mark.parametrize(
    "headers", [{"GNU.sparse.major": "1", "GNU.sparse.realsize": "1099511627776"}, {"size": "1099511627776"}]
)
def test_a_sparse_file_is_refused(headers: dict[str, str]) -> None:
    with pytest.raises(BadArchive, match="sparse or too large"):
        check_archive(archive(("workspace/deps/a", {"pax_headers": headers}), format=tarfile.PAX_FORMAT), PATHS)


def test_a_header_does_not_fill_the_memory() -> None:
    member = tarfile.TarInfo("././@LongLink")
    member.type, member.size = tarfile.GNUTYPE_LONGNAME, 2**33
    file = io.BytesIO(member.tobuf(tarfile.GNU_FORMAT))
    with pytest.raises(BadArchive, match="a header is too large"):
        check_archive(file, PATHS)


@pytest.mark.parametrize("content", [b"", b"no archive", b"x" * 10_240, bytes(1024) + b"more"])
def test_what_is_no_archive_is_refused(content: bytes) -> None:
    with pytest.raises(BadArchive):
        check_archive(io.BytesIO(content), PATHS)


def test_half_an_archive_is_refused() -> None:
    whole = archive(("workspace/deps/a", {"size": 20_000})).getvalue()
    for size in (100, 512, 5_000, 20_480):
        with pytest.raises(BadArchive):
            check_archive(io.BytesIO(whole[:size]), PATHS)
