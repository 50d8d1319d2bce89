"""An export tells data that was deleted from data that somebody made unreadable."""

import msgspec
import pytest

from domain.builds import BuildDeleted
from domain.core.events import EventMetadata
from store.audit.export import of_stream
from store.audit.export_lines import ExportLine
from store.log.event_log import Write
from tests.store.test_forged_exports import changed, read, written
from tests.store.test_verifier import Archive, archive, filled, texts, verified  # noqa: F401 - archive needs filled
from tests.workers.test_sealing import NOW

__all__ = ["archive"]


async def find_key(archive: Archive) -> str:
    """Returns the data key of a build that has not been deleted, like `project-1/job-2/build-3`."""
    with archive.connect() as connection:
        row = connection.execute(
            "SELECT name FROM stored_events_keys k WHERE name ~ '/build-' AND wrapped IS NOT NULL"
            " AND NOT EXISTS (SELECT FROM stored_events_keys a WHERE a.wrapped IS NULL AND k.name ^@ (a.name || '/'))"
            " ORDER BY name LIMIT 1"
        ).fetchone()
    assert row is not None
    return str(row[0])


@pytest.fixture
async def key(archive: Archive) -> str:
    return await find_key(archive)


async def delete_build(archive: Archive, key: str) -> None:
    project, job, build = (int(part.partition("-")[2]) for part in key.split("/"))
    deleted = BuildDeleted(build_id=build, job_id=job, project_id=project)
    history = (await archive.parts.log.load([deleted.stream]))[deleted.stream]
    await archive.parts.log.append([Write(len(history) + 1, deleted)], EventMetadata(NOW, "user:1"))


async def change_keys(archive: Archive, statement: str, key: str) -> None:
    with archive.connect() as connection:
        assert connection.execute(statement.encode(), (key,)).rowcount
    archive.parts.log.data_keys.clear_cache()


DESTROY = "UPDATE stored_events_keys SET wrapped = NULL, destroyed_at = now() WHERE name = %s"


def first_with(lines: list[bytes], key: str) -> int:
    return next(line.position or 0 for line in map(read, lines) if line.key == key)


async def test_a_key_that_no_event_destroyed(archive: Archive, key: str) -> None:
    first = first_with(await archive.export(), key)
    await change_keys(archive, DESTROY, key)
    (finding,) = verified(await archive.export(), archive.third, key=archive.first_key).findings
    assert finding.position == first
    assert f"reads as erased, but no event deletes its data key {key} (" in finding.text


async def test_a_key_above_that_no_event_destroyed(archive: Archive, key: str) -> None:
    await change_keys(archive, DESTROY, key.partition("/")[0])
    assert f"no event deletes its data key {key} (" in texts(verified(await archive.export(), archive.third))


async def test_values_that_were_taken_out_of_the_file(archive: Archive, key: str) -> None:
    lines = await archive.export()
    first = first_with(lines, key)
    lines[first] = changed(lines[first], sealed=msgspec.UNSET, salt=None)
    (finding,) = verified(lines, archive.third, key=archive.first_key).findings
    assert (finding.position, "(1 events have it)" in finding.text) == (first, True)


@pytest.mark.parametrize(
    ("statement", "says"),
    [
        ("DELETE FROM stored_events_keys WHERE name = %s", "is missing"),
        (
            "UPDATE stored_events_keys SET wrapped = set_byte(wrapped, 20, get_byte(wrapped, 20) # 1) WHERE name = %s",
            "does not open",
        ),
    ],
)
async def test_a_key_that_cannot_be_used_is_not_taken_for_an_erasure(
    archive: Archive, key: str, statement: str, says: str
) -> None:
    before = verified(await archive.export())
    await change_keys(archive, statement, key)
    found = verified(await archive.export(), archive.third, key=archive.first_key)
    assert found.erased == before.erased
    assert found.findings
    expected = f"is the row that was sealed here, but cannot be read: the data key {key} {says}"
    assert {finding.text for finding in found.findings} == {expected}


async def test_a_key_above_that_is_missing(archive: Archive, key: str) -> None:
    await change_keys(archive, "DELETE FROM stored_events_keys WHERE name = %s", key.rpartition("/")[0])
    assert f"cannot be read: the data key {key} is missing" in texts(verified(await archive.export()))


async def test_a_destroyed_key_that_is_there_again(archive: Archive, key: str) -> None:
    before = await archive.export()
    await archive.execute("CREATE TABLE kept_keys AS TABLE stored_events_keys")
    await delete_build(archive, key)
    position = await archive.parts.log.read_head()
    await archive.seal()
    after = await archive.export(after=archive.third.size)
    assert verified([*before, *after], archive.third).findings == [], "it was readable when that part was exported"
    await archive.execute("UPDATE stored_events_keys k SET wrapped = o.wrapped FROM kept_keys o WHERE o.name = k.name")
    await archive.execute("DROP TABLE kept_keys")
    archive.parts.log.data_keys.clear_cache()
    says = f"position {position}: deletes the data key {key}, but events that it encrypted are readable"
    assert says in texts(verified(await archive.export(), archive.third))


async def test_a_deletion_after_the_checkpoint_explains_an_erasure(archive: Archive, key: str) -> None:
    stream = key.rpartition("/")[2]
    await delete_build(archive, key)
    lines = await archive.export()
    assert ExportLine(later_erasures=[key]) == read(lines[-2])
    found = verified(lines, archive.third, key=archive.first_key)
    assert (found.findings, found.erasures.claimed) == ([], [key])
    assert f"no event deletes its data key {key} (" in texts(verified([*lines[:-2], lines[-1]], archive.third))
    await archive.seal()
    found = verified(await archive.export(), archive.third, key=archive.first_key)
    assert (found.findings, found.erasures.claimed) == ([], [])
    # A part names deletions of its own events only.
    alone = of_stream(archive.parts.pool, stream)
    other = of_stream(archive.parts.pool, "audit-signing-keys")
    for following, names in ((alone, [key]), (other, None)):
        lines = await archive.export(checkpoint=archive.third, following=following, filter={"stream": "one"})
        assert read(lines[-2]).later_erasures == names


async def test_one_stream_cannot_tell_what_was_deleted(archive: Archive, key: str) -> None:
    await change_keys(archive, DESTROY, key)
    stream = key.rpartition("/")[2]
    lines = await archive.export(following=of_stream(archive.parts.pool, stream), filter={"stream": stream})
    assert verified(lines, archive.third, key=archive.first_key).findings == []
    # One of a project can, of the keys of the project.
    project = key.partition("/")[0].partition("-")[2]
    for number, says in ((project, True), (f"{project}0", False)):
        filtered = [written_header(lines[0], {"project_id": number}), *lines[1:]]
        found = verified(filtered, archive.third, key=archive.first_key)
        assert (f"no event deletes its data key {key} (" in texts(found)) is says


def written_header(text: bytes, filter: dict[str, str]) -> bytes:
    header = read(text).export
    assert header is not None
    return written(ExportLine(export=msgspec.structs.replace(header, filter=filter)))


async def test_an_event_whose_key_is_missing_is_damaged(archive: Archive, key: str) -> None:
    """And not read as if it had been erased, which would change what people see without a word."""
    stream = key.rpartition("/")[2]
    await change_keys(archive, "DELETE FROM stored_events_keys WHERE name = %s", key)
    first, *_ = await archive.parts.log.read_stream(stream, 0, 1)
    assert (first.event.name, first.erased) == ("damaged", False)
    assert f"the data key {key} is missing" in str(first.event)
