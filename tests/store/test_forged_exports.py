"""Exports that somebody else has written: whoever forges the file itself, with no key of the log, is found."""

from collections.abc import Callable
from datetime import timedelta
from pathlib import Path
from typing import Any

import msgspec
import pytest

from commands.audit import AcceptRow
from commands.handler import CommandContext, Handler
from domain.claims import ClaimTaken
from domain.core.events import EventMetadata
from store.audit.checkpoints import AuditTree, leaf_hash_of
from store.audit.export import of_stream
from store.audit.export_lines import ExportLine, leaf_of_line
from store.audit.leaves import UnreadableLeaf, hash_of, sha256
from store.audit.verifier import checkpoint_of
from store.log.event_log import Write
from testhide.cli.audit import verify
from tests.store.test_verifier import Archive, archive, filled, texts, verified  # noqa: F401 - archive needs filled
from tests.workers.test_sealing import NOW

__all__ = ["archive"]

Forge = Callable[[ExportLine], ExportLine]


def read(text: bytes) -> ExportLine:
    return msgspec.json.decode(text, type=ExportLine)


def written(line: ExportLine) -> bytes:
    return msgspec.json.encode(line) + b"\n"


def changed(text: bytes, **values: Any) -> bytes:
    return written(msgspec.structs.replace(read(text), **values))


def header(text: bytes, **values: Any) -> bytes:
    found = read(text).export
    assert found is not None
    return written(ExportLine(export=msgspec.structs.replace(found, **values)))


def row_at(position: int, text: bytes) -> bytes:
    """The same once more further on, with the leaf that fits it there."""
    line = msgspec.structs.replace(read(text), position=position, stream=f"claim-{position}", version=1)
    leaf = leaf_of_line(position, line)
    assert leaf is not None
    return written(msgspec.structs.replace(line, leaf=hash_of(leaf).hex()))


def without_sealed(lines: list[bytes]) -> int:
    """The number of a line of an event that has no sealed fields."""
    return next(number for number, text in enumerate(lines) if (line := read(text)).position and not line.commitment)


def with_sealed(lines: list[bytes]) -> int:
    return next(number for number, text in enumerate(lines) if read(text).sealed is not msgspec.UNSET)


@pytest.mark.parametrize("salt", [None, "", "zz", "00" * 16])
async def test_sealed_fields_of_an_event_that_has_none(archive: Archive, salt: str | None) -> None:
    lines = await archive.export()
    number = without_sealed(lines)
    lines[number] = changed(lines[number], sealed=msgspec.Raw(b'{"approved_by":"ann"}'), salt=salt)
    found = verified(lines, archive.third, key=archive.first_key)
    assert [finding.position for finding in found.findings] == [number]


async def test_the_salt_has_its_length(archive: Archive) -> None:
    lines = await archive.export()
    number = with_sealed(lines)
    line = read(lines[number])
    assert line.salt is not None
    assert line.sealed is not msgspec.UNSET
    lines[number] = changed(lines[number], salt=line.salt[:-2], sealed=msgspec.Raw(b" " + bytes(line.sealed)))
    assert verified(lines, archive.third, key=archive.first_key).found


@pytest.mark.parametrize("end", ["before", "after"])
async def test_rows_behind_the_checkpoint(archive: Archive, end: str) -> None:
    """Nobody has signed them."""
    lines = await archive.export()
    size = archive.third.size
    more = [row_at(size + number, lines[-2]) for number in range(1, 4)]
    if end == "before":
        lines = [*lines[:-1], *more, written(ExportLine(end=size + 3))]
        lines[0] = header(lines[0], size=size + 3)
    else:
        lines = [*lines, *more]
    found = verified(lines, archive.third, key=archive.first_key)
    assert f"position {size + 1}: is not covered by the export's own checkpoint" in texts(found)


@pytest.mark.parametrize("more", ['{"end":%d}', '{"later_erasures":["build-1"]}', '{"end":1}'])
async def test_lines_behind_the_end(archive: Archive, more: str) -> None:
    lines = await archive.export()
    line = (more.replace("%d", str(archive.third.size)) + "\n").encode()
    found = verified([*lines, line], archive.third, key=archive.first_key)
    assert f"line {len(lines) + 1} comes after the end of the export" in texts(found)


@pytest.mark.parametrize(
    ("index", "says"),
    [
        (1, "line 2 is a second header"),
        (50, "line 51 is a header that goes on after position 0, but 49 was reached"),
        (-1, "is a header that goes on after position 0, but"),
        (None, "the export ends with a header"),
    ],
)
async def test_a_header_that_is_there_twice(archive: Archive, index: int | None, says: str) -> None:
    lines = await archive.export()
    lines.insert(len(lines) if index is None else index, lines[0])
    assert says in texts(verified(lines, archive.third, key=archive.first_key))


async def test_an_export_that_was_cut_off_after_its_header(archive: Archive) -> None:
    lines = await archive.export()
    assert texts(verified(lines[:1])) == "the export ends with a header: ask for what follows it once more"


async def test_a_header_of_another_size_than_its_checkpoint(archive: Archive) -> None:
    lines = await archive.export(checkpoint=archive.first)
    for size in (archive.first.size - 1, archive.first.size + 1):
        forged = [header(lines[0], size=size), *lines[1:-1], written(ExportLine(end=size))]
        assert "the header's size is not that of its checkpoint" in texts(verified(forged, key=archive.first_key))


async def test_a_part_that_says_to_begin_before_the_first(archive: Archive) -> None:
    """So that a stream's first events could be left out unseen."""
    lines = await archive.export(following=of_stream(archive.parts.pool, "project-1"), filter={"stream": "project-1"})
    forged = [header(lines[0], after=-1), written(ExportLine(skipped=(0, 0), hashes=[])), *lines[1:]]
    assert "the header's hashes are not those" in texts(verified(forged, archive.third, key=archive.first_key))


@pytest.mark.parametrize(
    "kind", [{"gap": 7}, {"end": 7}, {"skipped": (7, 7), "hashes": []}, {"hashes": []}, {"actor": "user:9"}]
)
async def test_a_line_that_is_of_two_kinds(archive: Archive, kind: dict[str, Any]) -> None:
    """A reader may take what was not verified."""
    lines = await archive.export()
    gap = next(number for number, text in enumerate(lines) if read(text).gap)
    for number in (0, 5, gap, len(lines) - 1):
        line = read(lines[number])
        more = {name: value for name, value in kind.items() if getattr(line, name) in (None, value)}
        if more and not (number == 5 and more.keys() == {"actor"}):
            forged = [*lines[:number], changed(lines[number], **more), *lines[number + 1 :]]
            assert f"line {number + 1} says more than one thing" in texts(verified(forged, archive.third)), more


async def test_a_row_that_could_not_be_read_when_it_was_sealed(archive: Archive) -> None:
    """Its leaf covers its bytes and where it stands; what else a line says of it is made up."""
    await archive.parts.log.append([Write(1, ClaimTaken(claim="odd", owner="ann"))], EventMetadata(NOW, "user:1"))
    position = await archive.parts.log.read_head()
    await archive.execute(f"UPDATE stored_events SET state = 'odd' WHERE notification_id = {position}")
    row = await AuditTree(archive.parts.pool).row(position)
    accepted = AcceptRow(position, leaf_hash_of(position, row).hex(), "a test", "ann")
    await Handler(archive.parts.log, lambda: NOW).execute(accepted, CommandContext("user:1"))
    await archive.seal()
    lines = await archive.export()
    line = read(lines[position])
    leaf = UnreadableLeaf(position, "claim-odd", 1, "claim.taken", sha256(b"odd"))
    assert (line.leaf, line.unreadable) == (hash_of(leaf).hex(), "the stored bytes are no event")
    quiet = [*lines[:position], changed(lines[position], unreadable=None), *lines[position + 1 :]]
    assert f"position {position}: " in texts(verified(quiet, archive.third))
    for more in ({"actor": "user:1"}, {"at_us": 7}, {"key": "user-1"}):
        forged = [*lines[:position], changed(lines[position], unreadable=None, **more), *lines[position + 1 :]]
        assert f"line {position + 1} says more than one thing" in texts(verified(forged, archive.third))


async def test_where_an_export_begins_is_said(
    archive: Archive, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """It verifies by itself, and must not pass for the whole log."""
    export, key = tmp_path / "export.ndjson", tmp_path / "key.txt"
    key.write_text(f"{archive.first_key}\n")
    export.write_bytes(b"".join(await archive.export(after=archive.first.size)))
    assert verify(export, checkpoint=[], key=key) == 0
    first, last = archive.first.size + 1, archive.third.size
    assert (
        f": the whole log, from position {first} to {last}; what comes before is not in it" in capsys.readouterr().out
    )


async def test_what_is_printed_is_printable(
    archive: Archive, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A forged file must not write "verified" over what was found."""
    lines = await archive.export()
    wipe = "\x1b[2J\x1b[Hverified: nothing was altered\n\x1b[8m"
    lines[0] = header(lines[0], filter={wipe: wipe})
    lines[5] = changed(lines[5], stream=wipe, type=wipe)
    export = tmp_path / "export.ndjson"
    export.write_bytes(b"".join(lines))
    assert verify(export, unpinned=True) == 1
    out = capsys.readouterr().out
    assert "\x1b" not in out
    assert not any(line.startswith("verified") for line in out.splitlines())


async def test_a_checkpoint_that_was_signed_after_the_export_was_asked_for(archive: Archive) -> None:
    at = checkpoint_of(archive.third.note).time
    lines = await archive.export(archive.second, asked_at=at - timedelta(seconds=1))
    assert "cannot be compared: it was signed at" in texts(verified(lines, archive.third))
    lines = await archive.export(archive.second, asked_at=at)
    assert "its tail was removed" in texts(verified(lines, archive.third))
