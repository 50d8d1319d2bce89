"""Files that `testhide audit verify` reads: as the server wrote them, compressed, or as editors left them."""

import codecs
import gzip
from collections.abc import Callable
from pathlib import Path

import pytest

from testhide.cli.audit import verify
from testhide.operator_errors import Fault
from tests.store.test_erased_exports import delete_build, find_key
from tests.store.test_verifier import Archive, archive, filled  # noqa: F401 - archive needs filled

__all__ = ["archive"]

Recode = Callable[[bytes], bytes]


def with_mark(text: bytes) -> bytes:
    return codecs.BOM_UTF8 + text


def of_windows(text: bytes) -> bytes:
    return text.replace(b"\n", b"\r\n")


def half(packed: bytes) -> bytes:
    return packed[: len(packed) // 2]


@pytest.mark.parametrize(
    "recode",
    [gzip.compress, of_windows, with_mark, lambda text: gzip.compress(with_mark(of_windows(text)))],
    ids=["gzip", "line ends of Windows", "byte order mark", "all of them"],
)
async def test_files_that_only_look_different(
    archive: Archive, tmp_path: Path, capsys: pytest.CaptureFixture[str], recode: Recode
) -> None:
    export, checkpoint, key = tmp_path / "export", tmp_path / "checkpoint.txt", tmp_path / "key.txt"
    lines = await archive.export()
    export.write_bytes(recode(b"".join(lines)))
    checkpoint.write_bytes(with_mark(of_windows(archive.third.note.encode())))
    key.write_bytes(with_mark(f"{archive.first_key}\r\n".encode()))
    assert verify(export, checkpoint=[checkpoint], key=key) == 0
    assert "verified: nothing was altered" in capsys.readouterr().out
    export.write_bytes(recode(b"".join([*lines[:77], *lines[78:]])))
    assert verify(export, checkpoint=[checkpoint], key=key) == 1
    assert "position 77: missing in the export" in capsys.readouterr().out


async def test_contents_that_only_the_file_says_were_deleted(
    archive: Archive, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    await delete_build(archive, name := await find_key(archive))
    export, key = tmp_path / "export", tmp_path / "key.txt"
    key.write_text(str(archive.first_key))
    export.write_bytes(b"".join(await archive.export()))
    assert verify(export, key=key) == 3
    printed = capsys.readouterr().out
    assert f"deletions after its checkpoint destroyed 1 data keys ({name})" in printed
    assert "verified" not in printed
    await archive.seal()
    export.write_bytes(b"".join(await archive.export()))
    assert verify(export, key=key) == 0


@pytest.mark.parametrize(
    ("recode", "says"),
    [
        (lambda text: text.decode().encode("utf-16"), "is UTF-16"),
        (lambda text: codecs.BOM_UTF16_BE + text.decode().encode("utf-16-be"), "is UTF-16"),
        (lambda text: half(gzip.compress(text)), "cannot be read"),
        (lambda text: gzip.compress(text)[:-8] + b"\0" * 8, "cannot be read"),
        (lambda text: gzip.compress(text)[:10] + b"\xff" * 100, "cannot be read"),
    ],
)
async def test_files_that_cannot_be_read_are_not_called_altered(
    archive: Archive, tmp_path: Path, recode: Recode, says: str
) -> None:
    export = tmp_path / "export"
    export.write_bytes(recode(b"".join(await archive.export())))
    with pytest.raises(Fault, match=says) as refused:
        verify(export, unpinned=True)
    assert refused.value.exit_code == 2
