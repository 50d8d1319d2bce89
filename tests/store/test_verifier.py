"""An export proves itself: what was sealed verifies offline, and whatever is changed then is found, and where."""

import random
from collections.abc import AsyncIterator, Callable, Iterable
from pathlib import Path
from typing import Any

import msgspec
import psycopg
import pytest
from bench.history.write import write_history

from domain.audit import SIGNING_KEY
from projections import audit_trail
from projections.engine.engine import Engine, ensure_tables
from store.audit.checkpoints import SealedCheckpoint
from store.audit.export import Export, Following, of_stream
from store.audit.signed_notes import SigningKey, VerifierKey
from store.audit.verifier import HeldCheckpoint, Verifier, checkpoint_of
from testhide.cli.audit import verify
from testhide.operator_errors import Fault
from testhide.processes import core
from testhide.settings import Settings
from tests.support.snapshot import Snapshot
from tests.support.tampering import TAMPERINGS, Intruder, cut_off_after, hide_in_the_tree
from tests.workers.test_sealing import Yard

EVENTS = 700
GAPS = 10


class Archive(Yard):
    """A sealed history of all types with a hand-over of the signing key, gaps, and keys that were destroyed."""

    async def fill(self) -> None:
        write_history(self.parts.conninfo, self.parts.secrets, events=EVENTS, results=5_000)
        await self.seal()
        await self.happen(20)
        await self.seal()
        await self.happen(20)
        await self.rotate()
        sequence = "pg_get_serial_sequence('stored_events', 'notification_id')"
        await self.execute(f"SELECT setval({sequence}, nextval({sequence}) + {GAPS - 1})")
        await self.happen(20)
        await self.seal()
        await self.happen(100)
        await self.seal()
        await self.look_up()

    async def look_up(self) -> None:
        """Names the checkpoints and the first key of what is there."""
        self.third, self.second, self.between, self.first = await self.tree.checkpoints_before(None, 10)
        keys = (await self.parts.log.load([SIGNING_KEY.name]))[SIGNING_KEY.name]
        self.first_key, self.second_key = (VerifierKey.parse(key.event.public_key) for key in keys)  # type: ignore[attr-defined]

    async def export(self, checkpoint: SealedCheckpoint | None = None, **options: Any) -> list[bytes]:
        """Its lines; without a checkpoint those up to the newest."""
        checkpoint = checkpoint or await self.tree.checkpoint()
        assert checkpoint is not None
        made = Export(self.parts.pool, self.parts.log, checkpoint, **options)
        return b"".join([piece async for piece in made.lines()]).splitlines(keepends=True)

    def connect(self) -> psycopg.Connection[Any]:
        return psycopg.connect(self.parts.conninfo, autocommit=True)


@pytest.fixture(scope="module")
def filled() -> list[Snapshot]:
    """The content of the archive, once a test has filled it."""
    return []


@pytest.fixture
async def archive(database: str, filled: list[Snapshot]) -> AsyncIterator[Archive]:
    with psycopg.connect(database, autocommit=True) as connection:
        if filled:
            filled[0].restore(connection)
        # Afterwards, since it has the root keys that sealed what was restored.
        async with core(Settings(database_url=database, redis_url="", secret_key=b"s" * 32, data_dir="")) as parts:
            archive = Archive(parts)
            if filled:
                await archive.look_up()
            else:
                await archive.fill()
                filled.append(Snapshot.take(connection))
            yield archive


def held(*checkpoints: SealedCheckpoint) -> list[HeldCheckpoint]:
    return [HeldCheckpoint(f"checkpoint {item.size}", item.note, checkpoint_of(item.note)) for item in checkpoints]


def verified(lines: Iterable[bytes], *checkpoints: SealedCheckpoint, key: VerifierKey | None = None) -> Verifier:
    verifier = Verifier(key, held(*checkpoints))
    verifier.verify(lines)
    return verifier


def texts(verifier: Verifier) -> str:
    return "\n".join(map(str, verifier.findings))


async def test_what_was_not_touched_verifies(archive: Archive) -> None:
    lines = await archive.export()
    found = verified(lines, archive.first, archive.second, archive.third, key=archive.first_key)
    assert found.findings == []
    assert found.events + found.gaps == archive.third.size
    assert found.gaps == GAPS
    assert found.erased > 0
    assert [one.checkpoint.size for one in found.agreed] == [
        item.size for item in reversed([archive.third, archive.second, archive.first])
    ]


async def test_an_older_checkpoint_is_exported_too(archive: Archive) -> None:
    found = verified(await archive.export(checkpoint=archive.first), archive.first, key=archive.first_key)
    assert found.findings == []
    assert found.events == archive.first.size


async def test_an_erasure_changes_no_leaf(archive: Archive) -> None:
    before = verified(await archive.export())
    await archive.execute("UPDATE stored_events_keys SET wrapped = NULL, destroyed_at = now()")
    after = verified(await archive.export(), archive.third, key=archive.first_key)
    assert all("reads as erased, but no event deletes its data key" in text for text in map(str, after.findings))
    assert after.agreed == verified(await archive.export(), archive.third).agreed
    assert after.erased > before.erased


async def test_no_sealed_value_of_an_erased_event_is_exported(archive: Archive) -> None:
    await archive.execute("UPDATE stored_events_keys SET wrapped = NULL, destroyed_at = now()")
    assert not any(b'"sealed"' in line or b'"salt"' in line for line in await archive.export())


async def test_every_tampering_is_found_where_it_was_done(archive: Archive) -> None:
    with archive.connect() as connection:
        intruder = Intruder(connection, archive.parts.secrets, random.Random(7))
        for tamper in TAMPERINGS:
            changed = tamper(intruder)
            found = verified(await archive.export(), archive.third)
            assert changed <= {finding.position for finding in found.findings}, (
                tamper.__name__,
                changed,
                texts(found),
            )
            if tamper.__name__ != "insert_between_and_shift":
                # What follows from it is found in the same streams, not all over the log.
                assert found.found <= 8, (tamper.__name__, changed, texts(found))
            intruder.undo()
        assert verified(await archive.export(), archive.third).findings == []


async def test_who_changes_the_tree_too_is_found_by_the_checkpoints_held(archive: Archive) -> None:
    with archive.connect() as connection:
        intruder = Intruder(connection, archive.parts.secrets, random.Random(7))
        intruder.change(archive.first.size + 5, "topic", "build.pinned")
        hide_in_the_tree(connection)
    lines = await archive.export()
    assert f"from position 1 to {archive.third.size} is not" in texts(verified(lines, archive.third))
    narrowed = verified(lines, archive.first, archive.second, archive.third)
    assert f"from position {archive.first.size + 1} to {archive.second.size} is not" in texts(narrowed)
    assert [one.checkpoint.size for one in narrowed.agreed] == [archive.first.size]


async def test_a_removed_tail_is_found_by_the_checkpoint_held(archive: Archive) -> None:
    with archive.connect() as connection:
        cut_off_after(connection, archive.first.size)
    lines = await archive.export()
    assert verified(lines, archive.first, key=archive.first_key).findings == []
    found = verified(lines, archive.third)
    assert f"the log ends at {archive.first.size}" in texts(found)
    assert "its tail was removed" in texts(found)


async def test_an_event_that_went_before_it_was_sealed_leaves_a_hole_in_its_stream(archive: Archive) -> None:
    await archive.rotate()
    await archive.rotate()
    await archive.execute(
        f"DELETE FROM stored_events WHERE originator_id = '{SIGNING_KEY.name}' AND originator_version = 3"
    )
    await archive.seal()
    assert "stream audit-signing-keys goes from version 2 to 4" in texts(verified(await archive.export()))


async def test_damaged_data_keys_are_told_from_damaged_rows(archive: Archive) -> None:
    await archive.execute("UPDATE stored_events_keys SET wrapped = set_byte(wrapped, 20, get_byte(wrapped, 20) # 1)")
    archive.parts.log.data_keys.clear_cache()
    found = verified(await archive.export())
    assert found.found > 100
    assert all("cannot be read: the data key" in finding.text for finding in found.findings)


# Parts of the log.


async def test_one_stream(archive: Archive) -> None:
    with archive.connect() as connection:
        row = connection.execute(
            "SELECT originator_id, count(*) FROM stored_events GROUP BY 1 ORDER BY 2 DESC LIMIT 1"
        ).fetchone()
    assert row is not None
    stream, count = row
    lines = await archive.export(following=of_stream(archive.parts.pool, stream), filter={"stream": stream})
    found = verified(lines, archive.third, key=archive.first_key)
    assert found.findings == []
    assert found.events == count + 2  # the signing keys are in every export
    assert found.left_out == archive.third.size - found.events


@pytest.fixture
async def of_project(archive: Archive) -> Callable[[int], Following]:
    parts = archive.parts
    async with await psycopg.AsyncConnection.connect(parts.conninfo, autocommit=True) as connection:
        await ensure_tables(connection, [audit_trail.PROJECTION])
        engine = Engine(connection, [audit_trail.PROJECTION], announce=False)
        await engine.apply(await parts.log.read(0, 2 * EVENTS), 0)

    def chosen(project_id: int) -> Following:
        async def following(after: int, limit: int) -> list[int]:
            async with parts.pool.connection() as connection:
                wanted = audit_trail.TrailFilter(projects=[project_id], after=after)
                return await audit_trail.find_positions(connection, wanted, newest=False, limit=limit)

        return following

    return chosen


@pytest.fixture
async def project(archive: Archive) -> int:
    with archive.connect() as connection:
        row = connection.execute(
            "SELECT originator_id FROM stored_events WHERE originator_id ~ '^project-[0-9]+$' ORDER BY notification_id"
        ).fetchone()
    assert row is not None
    return int(row[0].removeprefix("project-"))


async def test_any_choice_of_streams(archive: Archive) -> None:
    chance = random.Random(7)
    with archive.connect() as connection:
        rows = connection.execute("SELECT notification_id, originator_id FROM stored_events ORDER BY 1").fetchall()
    streams = sorted({stream for _, stream in rows})
    for _ in range(20):
        wanted = set(chance.sample(streams, chance.randrange(len(streams))))
        positions = [position for position, stream in rows if stream in wanted]

        async def following(after: int, limit: int, positions: list[int] = positions) -> list[int]:
            return [position for position in positions if position > after][:limit]

        kept = chance.sample([archive.first, archive.between, archive.second, archive.third], chance.randrange(5))
        boundaries = [item.size for item in kept]
        lines = await archive.export(following=following, filter={"stream": "several"}, boundaries=boundaries)
        assert verified(lines, *kept, key=archive.first_key).findings == []


async def test_one_project(archive: Archive, of_project: Callable[[int], Following], project: int) -> None:
    asked: dict[str, Any] = {"following": of_project(project), "filter": {"project_id": str(project)}}
    lines = await archive.export(**asked)
    found = verified(lines, archive.third, key=archive.first_key)
    assert found.findings == []
    assert 10 < found.events < archive.third.size / 2
    # With a checkpoint in the midst of what is left out only when it was asked for.
    assert "ask for an export with ?held=" in texts(verified(lines, archive.between))
    lines = await archive.export(**asked, boundaries=[archive.between.size])
    assert verified(lines, archive.between, key=archive.first_key).findings == []


async def test_a_part_that_was_changed(archive: Archive, of_project: Callable[[int], Following], project: int) -> None:
    following = of_project(project)
    positions = await following(0, 1_000)
    with archive.connect() as connection:
        intruder = Intruder(connection, archive.parts.secrets, random.Random(7))
        intruder.delete(positions[3])
        intruder.change(positions[8], "topic", "build.pinned")
    found = verified(await archive.export(following=following, filter={"project_id": str(project)}), archive.third)
    assert {positions[3], positions[8]} <= {finding.position for finding in found.findings}


async def test_an_export_that_was_cut_off_goes_on(archive: Archive) -> None:
    whole = await archive.export()
    for kept in (2, 100, 351, 743, -1):
        begun = whole[:kept]
        found = verified(begun)
        assert "cut off after position" in texts(found)
        last = msgspec.json.decode(begun[-1]).get("position", msgspec.json.decode(begun[-1]).get("gap", 0))
        rest = await archive.export(after=last)
        assert begun + rest[1:] == whole
        assert verified(begun + rest, archive.first, archive.third, key=archive.first_key).findings == []


async def test_an_export_is_continued_later(archive: Archive) -> None:
    begun = await archive.export(checkpoint=archive.first)
    rest = await archive.export(after=archive.first.size)
    assert verified(begun + rest, archive.first, archive.third, key=archive.first_key).findings == []
    alone = verified(rest, archive.third, key=archive.first_key)
    assert alone.findings == []
    assert alone.events + alone.gaps == archive.third.size - archive.first.size


async def test_a_continuation_of_another_past_is_found(archive: Archive) -> None:
    begun = await archive.export(checkpoint=archive.first)
    await archive.execute("UPDATE stored_events SET topic = 'build.pinned' WHERE notification_id = 50")
    with archive.connect() as connection:
        hide_in_the_tree(connection)
    rest = await archive.export(after=archive.first.size)
    assert "of a log that was another there" in texts(verified(begun + rest))


# The file itself.


CHANGED_FILES: list[tuple[Callable[[list[bytes]], list[bytes]], str]] = [
    (lambda lines: [], "no header"),
    (lambda lines: lines[1:], "before the export's header"),
    (lambda lines: lines[:100] + lines[101:], "position 100: missing in the export"),
    (lambda lines: lines[:100] + lines[98:], "position 99: is there more than once"),
    (lambda lines: lines[:100] + lines[101:100:-1] + lines[102:], "position 100: missing in the export"),
    (lambda lines: lines[:-1], "cut off after position"),
    (lambda lines: [*lines[:100], b"{}\n", *lines[100:]], "line 101 says nothing"),
    (lambda lines: [*lines[:100], b'{"new": 1}\n', *lines[100:]], "line 101 is no whole line"),
    (lambda lines: [*lines[:100], b"\xff\n", *lines[100:]], "line 101 is no whole line"),
    (lambda lines: [lines[0], b'{"actor":"user:99",' + lines[1][1:], *lines[2:]], "line 2 is not written as"),
    (lambda lines: [lines[0], lines[1].replace(b'"actor"', b'"act\\u006fr"'), *lines[2:]], "line 2 is not written"),
    (lambda lines: [b'{"export":{"size":1,' + lines[0][11:], *lines[1:]], "line 1 is not written as"),
    (lambda lines: [lines[0], lines[1].replace(b'"leaf":"', b'"leaf":"x'), *lines[2:]], "position 1: the hash"),
    (
        lambda lines: [lines[0], b'{"skipped":[1,1],"hashes":["%064x"]}\n' % 0, *lines[2:]],
        "position 1: up to 1: left",
    ),
]


async def test_files_that_are_not_what_was_exported(archive: Archive) -> None:
    lines = await archive.export()
    for change, finding in CHANGED_FILES:
        assert finding in texts(verified(change(lines)))


async def test_any_byte_of_the_file_counts(archive: Archive) -> None:
    """But for the header's list of keys, which is only taken where none is given."""
    lines = await archive.export()
    text, chance = b"".join(lines), random.Random(7)
    begin = len(lines[0])
    for _ in range(40):
        index = chance.randrange(begin, len(text) - 1)
        turned = bytearray(text)
        turned[index] ^= 1 << chance.randrange(8)
        found = verified(bytes(turned).splitlines(keepends=True), archive.third, key=archive.first_key)
        assert found.findings, (text[index - 40 : index + 40], bytes(turned[index - 40 : index + 40]))


# Keys.


async def test_later_keys_follow_from_the_first(archive: Archive) -> None:
    lines = await archive.export()
    assert verified(lines, key=archive.first_key).findings == []
    assert verified(lines, key=archive.second_key).findings == []
    other = SigningKey.new(archive.first_key.name).verifier
    assert "is not one of the keys" in texts(verified(lines, key=other))


async def test_a_key_that_nobody_handed_over_to_does_not_count(archive: Archive) -> None:
    forged = SigningKey.new(archive.first_key.name)
    note = forged.sign(checkpoint_of(archive.third.note).text)
    with archive.connect() as connection:
        connection.execute("UPDATE audit_checkpoints SET note = %s WHERE size = %s", (note, archive.third.size))
    assert "is not one of the keys" in texts(verified(await archive.export()))
    assert "is not one of the keys" in texts(verified(await archive.export(), key=archive.first_key))


async def test_a_hand_over_needs_the_signature_of_the_old_key(archive: Archive) -> None:
    with archive.connect() as connection:
        forged = SigningKey.new(archive.first_key.name).sign(checkpoint_of(archive.second.note).text)
        connection.execute("UPDATE audit_checkpoints SET note = %s WHERE size = %s", (forged, archive.second.size))
    assert "is not one of the keys" in texts(verified(await archive.export(), key=archive.first_key))


# The command.


async def test_the_command(archive: Archive, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    export, checkpoint, key = tmp_path / "export.ndjson", tmp_path / "checkpoint.txt", tmp_path / "key.txt"
    export.write_bytes(b"".join(await archive.export()))
    checkpoint.write_text(archive.third.note)
    key.write_text(f"{archive.first_key}\n")
    assert verify(export, checkpoint=[checkpoint], key=key) == 0
    assert "verified: nothing was altered" in capsys.readouterr().out
    with pytest.raises(Fault, match="Give --key or --checkpoint"):
        verify(export)
    assert verify(export, unpinned=True) == 0
    assert "agrees with itself; nobody from elsewhere vouches for it" in (out := capsys.readouterr().out)
    assert "nothing was altered" not in out
    await archive.execute("DELETE FROM stored_events WHERE notification_id = 77")
    export.write_bytes(b"".join(await archive.export()))
    assert verify(export, checkpoint=[checkpoint], key=key) == 1
    out = capsys.readouterr().out
    assert "position 77: the row that was sealed here is gone" in out
    assert out.endswith("ALTERED or incomplete\n")
