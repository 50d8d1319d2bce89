"""Archives of caches: saved and unpacked only if all their members belong to the cache."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path
from typing import Any

import pytest

from agent.build.cache_archive import BadArchive, check_archive

PATHS = ["workspace/deps", "home/./.cache/pip", "workspace/deps/inner/part"]
NOWHERE = Path("/nonexistent")
"""A folder with none of the paths."""
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
        NOWHERE,
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
        check_archive(archive(("workspace/deps/a", {}), (name, fields), format=format), PATHS, NOWHERE)


@pytest.mark.parametrize(
    "headers", [{"GNU.sparse.major": "1", "GNU.sparse.realsize": "1099511627776"}, {"size": "1099511627776"}]
)
def test_a_sparse_file_is_refused(headers: dict[str, str]) -> None:
    with pytest.raises(BadArchive, match="sparse or too large"):
        check_archive(
            archive(("workspace/deps/a", {"pax_headers": headers}), format=tarfile.PAX_FORMAT), PATHS, NOWHERE
        )


@pytest.mark.parametrize(
    "members",
    [
        [("workspace/deps/up", {"type": tarfile.SYMTYPE, "linkname": ".."}), ("workspace/deps/up/Makefile", {})],
        [
            ("workspace/deps/up", {"type": tarfile.SYMTYPE, "linkname": ".."}),
            ("workspace/deps/same", {"type": tarfile.LNKTYPE, "linkname": "workspace/deps/./up"}),
            ("workspace/deps/same/Makefile", {}),
        ],
        [
            ("workspace/deps/inner", {"type": tarfile.SYMTYPE, "linkname": "../.."}),
            ("workspace/deps/inner/part/Makefile", {}),
        ],
        [
            ("workspace/deps/up", {"type": tarfile.SYMTYPE, "linkname": ".."}),
            ("workspace/deps/a", {"type": tarfile.LNKTYPE, "linkname": "workspace/deps/up/.git/config"}),
        ],
    ],
)
def test_nothing_is_unpacked_through_a_link_of_the_archive(members: list[tuple[str, dict[str, Any]]]) -> None:
    with pytest.raises(BadArchive, match="leads through a link"):
        check_archive(archive(*members), PATHS, NOWHERE)


def test_nothing_is_unpacked_through_a_link_of_the_checkout(tmp_path: Path) -> None:
    (tmp_path / "workspace" / "deps").mkdir(parents=True)
    (tmp_path / "workspace" / "deps" / "source").symlink_to("..")
    link = ("workspace/deps/source", {"type": tarfile.SYMTYPE, "linkname": ".."})
    check_archive(archive(link, ("workspace/deps/a", {})), PATHS, tmp_path)

    with pytest.raises(BadArchive, match="'workspace/deps/source/a' leads through a link"):
        check_archive(archive(("workspace/deps/source/a", {})), PATHS, tmp_path)


def test_a_path_may_be_below_a_link_of_the_checkout(tmp_path: Path) -> None:
    (tmp_path / "workspace" / "packages").mkdir(parents=True)
    (tmp_path / "workspace" / "lib").symlink_to("packages")

    check_archive(archive(("workspace/lib/deps/a", {})), ["workspace/lib/deps"], tmp_path)


def _changed(at: int, value: bytes) -> io.BytesIO:
    """An archive with other bytes in its first header."""
    file = archive(("workspace/deps/a", {"size": 8}))
    header = bytearray(file.getvalue()[:512])
    header[at : at + len(value)] = value
    header[148:156] = b" " * 8
    header[148:156] = b"%06o\0 " % sum(header)
    file.seek(0)
    file.write(header)
    return file


@pytest.mark.parametrize(("at", "value"), [(124, b"+0000000010\0"), (124, b"0_000000010\0"), (345, b"workspace/deps")])
def test_a_header_that_tar_reads_otherwise_is_refused(at: int, value: bytes) -> None:
    check_archive(_changed(100, b"0000755"), PATHS, NOWHERE)
    with pytest.raises(BadArchive, match="a header is damaged"):
        check_archive(_changed(at, value), PATHS, NOWHERE)


@pytest.mark.parametrize("first", [tarfile.GNU_FORMAT, tarfile.PAX_FORMAT])
def test_two_names_for_one_member_are_refused(first: Any) -> None:
    second: Any = tarfile.PAX_FORMAT if first == tarfile.GNU_FORMAT else tarfile.GNU_FORMAT
    member = tarfile.TarInfo(LONG)
    content = member.tobuf(first)[:-512] + member.tobuf(second) + bytes(1024)
    with pytest.raises(BadArchive, match="a header is there twice"):
        check_archive(io.BytesIO(content), PATHS, NOWHERE)


@pytest.mark.parametrize("name", ["workspace/deps/a\0", "workspace/deps/..\0", f"workspace/deps{'/a' * 3000}"])
def test_a_name_that_no_file_has_is_refused(name: str) -> None:
    member = ("workspace/deps/a", {"pax_headers": {"path": name}})
    with pytest.raises(BadArchive, match="none of its paths"):
        check_archive(archive(member, format=tarfile.PAX_FORMAT), PATHS, NOWHERE)


def test_a_header_does_not_fill_the_memory() -> None:
    member = tarfile.TarInfo("././@LongLink")
    member.type, member.size = tarfile.GNUTYPE_LONGNAME, 2**33
    file = io.BytesIO(member.tobuf(tarfile.GNU_FORMAT))
    with pytest.raises(BadArchive, match="a header is too large"):
        check_archive(file, PATHS, NOWHERE)


@pytest.mark.parametrize("content", [b"", b"no archive", b"x" * 10_240, bytes(1024) + b"more"])
def test_what_is_no_archive_is_refused(content: bytes) -> None:
    with pytest.raises(BadArchive):
        check_archive(io.BytesIO(content), PATHS, NOWHERE)


def test_half_an_archive_is_refused() -> None:
    whole = archive(("workspace/deps/a", {"size": 20_000})).getvalue()
    for size in (100, 512, 5_000, 20_480):
        with pytest.raises(BadArchive):
            check_archive(io.BytesIO(whole[:size]), PATHS, NOWHERE)
