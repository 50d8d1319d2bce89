"""Exports the log as lines of JSON. A reader who has a checkpoint can verify such an export offline.

The first line is a header with the checkpoint. The following lines cover all positions in order. A line is an event, a
gap, or a range of positions that a filter left out. A line for an event has the values of the event's leaf. A line for
a range has the hashes of the subtrees that cover the range. At the end come lines about later erasures, and a line that
marks the end.

The leaves and hashes of the lines, folded in order, give the root that the checkpoint signs. The field `leaf` of a line
is the hash in the tree. If a row was changed, the values of its line hash to something else than `leaf`, so the
verifier can name the position.
"""

import asyncio
from collections import defaultdict, deque
from collections.abc import AsyncIterator, Awaitable, Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from datetime import datetime
from typing import Any, NamedTuple

import msgspec
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from eventsourcing.persistence import StoredEvent
from psycopg_pool import AsyncConnectionPool

from domain.audit import SIGNING_KEY, SigningKeyChanged
from domain.core.data_keys import lineage
from store.audit.checkpoints import AuditTree, SealedCheckpoint
from store.audit.erasures import ERASING
from store.audit.export_lines import ExportHeader, ExportLine
from store.audit.leaves import MAPPER, event_leaf, leaf_of, row_of
from store.audit.merkle import cover
from store.crypto.secrets import SecretMismatch
from store.log.codec import UnreadableEvent, canonical, disclosed
from store.log.event_log import EventLog
from store.postgres.queries import fetch_rows

CHUNK = 250
"""Number of positions whose leaves are looked up in the tree at once."""
ROWS_BYTES = 1024 * 1024
"""Largest number of stored bytes of the rows that are read at once. A larger row is read alone."""
PIECE_BYTES = 64 * 1024
"""Number of bytes of lines that are collected before they are handed on. Then other requests get their turn, since
making lines takes CPU time.
"""

Following = Callable[[int, int], Awaitable[list[int]]]
"""Function of a position and a limit. It returns the positions to export that come next after this position, in order:
at most as many as the limit.
"""


class _Row(NamedTuple):
    position: int
    stored: StoredEvent
    key: AESGCM | str | None
    """Data key of the sealed fields, or a sentence that says why the key cannot be used. None if the event has no
    sealed fields, or if their data key was destroyed.
    """


@dataclass
class Export:
    """An export of the positions after `after`, up to the end of `checkpoint`. `following` chooses positions; None
    exports all.

    `boundaries` are sizes of checkpoints that the reader already has. The export splits a range of left-out positions
    at each of these sizes, so that the reader can compare the root of the tree of this size with the checkpoint.
    `ExportHeader` describes the other fields.
    """

    pool: AsyncConnectionPool
    log: EventLog
    checkpoint: SealedCheckpoint
    after: int = 0
    following: Following | None = None
    filter: dict[str, str] = field(default_factory=dict)
    boundaries: Sequence[int] = ()
    head: int = 0
    asked_at: datetime | None = None
    _keys: list[int] = field(init=False)
    _erased: set[str] = field(init=False, default_factory=set)
    """Names of the destroyed data keys of exported events, and of all keys above these. Only the later erasures of
    these keys are exported. Empty for an export of the whole log, which contains all later erasures.
    """

    def __post_init__(self) -> None:
        self._tree = AuditTree(self.pool)

    async def lines(self) -> AsyncIterator[bytes]:
        """Yields the text of the export in pieces of whole lines. A piece has about 64 KiB, or is one longer line. Only
        this piece and about 1 MiB of stored rows are in memory at a time.
        """
        texts: list[bytes] = []
        size = 0
        async for line in self._all_lines():
            texts.append(msgspec.json.encode(line) + b"\n")
            size += len(texts[-1])
            if size >= PIECE_BYTES:
                yield b"".join(texts)
                texts, size = [], 0
                await asyncio.sleep(0)
        yield b"".join(texts)

    async def _all_lines(self) -> AsyncIterator[ExportLine]:
        recorded = (await self.log.load([SIGNING_KEY.name]))[SIGNING_KEY.name]
        size = self.checkpoint.size
        self._keys = [item.position for item in recorded if item.position <= size]
        covering = [await self._tree.covering(position) for position in self._keys[1:]]
        handovers = {item.size: item.note for item in covering if item is not None}
        self._boundaries = sorted({*handovers, *self.boundaries, size})
        yield ExportLine(
            export=ExportHeader(
                origin=self.checkpoint.note.partition("\n")[0],
                size=size,
                after=self.after,
                filter=self.filter,
                checkpoint=self.checkpoint.note,
                handovers=list(handovers.values()),
                keys=[item.event.public_key for item in recorded if isinstance(item.event, SigningKeyChanged)],
                hashes=[item.hex() for item in await self._tree.hashes(cover(0, self.after))],
                asked_at=self.asked_at,
                head=self.head,
            )
        )
        if self.following is None and self.after == 0:
            # The log begins at 1: any row before was inserted by somebody else.
            for row in await self._rows("notification_id < 1", []):
                yield _line(row)
        at = self.after
        while at < size:
            wanted, reached = await self._wanted(at)
            async for line in self._lines(at, wanted, reached):
                yield line
            at = reached
        async for keys in self._later_erasures():
            yield ExportLine(later_erasures=keys)
        yield ExportLine(end=size)

    async def _later_erasures(self) -> AsyncIterator[list[str]]:
        """Yields lists of data keys that were destroyed after the checkpoint. Exported events with these keys may read
        as erased.
        """
        at = self.checkpoint.size
        while later := await self.log.read(at, CHUNK, names=list(ERASING)):
            keys = [key for recorded in later if (key := recorded.event.erases) is not None]
            if wanted := [key for key in keys if self.following is None or key in self._erased]:
                yield wanted
            at = later[-1].position

    async def _wanted(self, at: int) -> tuple[list[int], int]:
        """Returns (positions, reached): the next positions to export after position `at`, in order, and the position up
        to which this list is complete.
        """
        size = self.checkpoint.size
        if self.following is None:
            reached = min(at + CHUNK, size)
            return list(range(at + 1, reached + 1)), reached
        found = [position for position in await self.following(at, CHUNK) if position <= size]
        reached = found[-1] if len(found) == CHUNK else size
        # Every export includes the events of the signing keys.
        return sorted({*found, *(position for position in self._keys if at < position <= reached)}), reached

    async def _lines(self, at: int, wanted: Sequence[int], reached: int) -> AsyncIterator[ExportLine]:
        skipped = list(self._left_out(at, wanted, reached))
        hashes = iter(await self._tree.hashes([subtree for stretch in skipped for subtree in cover(*stretch)]))
        leaves = dict(zip(wanted, await self._tree.leaves(wanted), strict=True))
        ranges = deque(
            (first, ExportLine(skipped=(first + 1, end), hashes=[next(hashes).hex() for _ in cover(first, end)]))
            for first, end in skipped
        )
        for batch in _batches(wanted, await self._sizes(wanted)):
            rows: dict[int, list[_Row]] = defaultdict(list)
            for row in await self._rows("notification_id = ANY (%s)", [batch]):
                rows[row.position].append(row)
            for position in batch:
                while ranges and ranges[0][0] < position:
                    yield ranges.popleft()[1]
                leaf = leaves[position].hex()
                if position not in rows:
                    yield ExportLine(gap=position, leaf=leaf)
                for row in rows.pop(position, ()):
                    yield msgspec.structs.replace(_line(row), leaf=leaf)
        for _, line in ranges:
            yield line

    def _left_out(self, at: int, wanted: Sequence[int], reached: int) -> Iterator[tuple[int, int]]:
        """Yields the ranges between `at` and `reached` that have no position of `wanted`, as pairs (after, up to).
        Splits a range at each size of the tree in `self._boundaries`.
        """
        for position in [*wanted, reached + 1]:
            for boundary in self._boundaries:
                if at < boundary < position - 1:
                    yield at, boundary
                    at = boundary
            if at < position - 1:
                yield at, position - 1
            at = position

    async def _sizes(self, positions: Sequence[int]) -> dict[int, int]:
        """Returns position -> number of stored bytes, for the positions that have rows."""
        rows = await fetch_rows(
            self.pool,
            "SELECT notification_id, sum(octet_length(state)) FROM stored_events WHERE notification_id = ANY (%s)"
            " GROUP BY notification_id",
            (list(positions),),
        )
        return {position: size or 0 for position, size in rows}

    async def _rows(self, condition: str, parameters: Sequence[Any]) -> list[_Row]:
        query = (
            "SELECT notification_id, originator_id, originator_version, topic, state FROM stored_events"
            f" WHERE {condition} ORDER BY notification_id, originator_id, originator_version LIMIT 10000"
        )
        rows = [(position, row_of(*columns)) for position, *columns in await fetch_rows(self.pool, query, parameters)]
        sealed_by = [(position, stored, MAPPER.key_name(stored.state)) for position, stored in rows]
        keys = await self._data_keys({name for _, _, name in sealed_by if name is not None})
        return [_Row(position, stored, keys.get(name or "")) for position, stored, name in sealed_by]

    async def _data_keys(self, names: set[str]) -> dict[str, AESGCM | str | None]:
        """Returns for each name the data key, None if the key was destroyed, or a sentence that says why the key cannot
        be used.
        """
        keys, faults = await self.log.data_keys.load_with_faults(names)
        found: dict[str, AESGCM | str | None] = {**keys}
        found |= {name: f"the data key {name} {fault}" for name, fault in faults.items()}
        # The log's cache may still have keys that were destroyed a moment ago.
        destroyed = dict.fromkeys(await self.log.data_keys.find_destroyed(names))
        if self.following is not None:
            self._erased.update(above for name in destroyed for above in lineage(name))
        return found | destroyed


def of_stream(pool: AsyncConnectionPool, stream: str) -> Following:
    async def following(after: int, limit: int) -> list[int]:
        rows = await fetch_rows(
            pool,
            "SELECT notification_id FROM stored_events WHERE originator_id = %s AND notification_id > %s"
            " ORDER BY notification_id LIMIT %s",
            (stream, after, limit),
        )
        return [position for (position,) in rows]

    return following


def _batches(positions: Iterable[int], sizes: Mapping[int, int]) -> Iterator[list[int]]:
    """Splits positions into lists. The rows at the positions of a list have at most ROWS_BYTES together; a larger row
    gets a list of its own.
    """
    batch: list[int] = []
    total = 0
    for position in positions:
        size = sizes.get(position, 0)
        if batch and total + size > ROWS_BYTES:
            yield batch
            batch, total = [], 0
        batch.append(position)
        total += size
    if batch:
        yield batch


def _line(row: _Row) -> ExportLine:
    position, stored, key = row
    try:
        opened = MAPPER.opened(stored, lambda name: None)
        leaf = event_leaf(position, stored, opened)
    except UnreadableEvent:
        return ExportLine(
            **msgspec.structs.asdict(leaf_of(position, stored)), unreadable="the stored bytes are no event"
        )
    sealed: msgspec.Raw | msgspec.UnsetType = msgspec.UNSET
    withheld, salt, reason = False, "", key if isinstance(key, str) else None
    if isinstance(key, AESGCM):
        try:
            shown = MAPPER.opened(stored, lambda name: key)
            assert shown.sealed is not None, "its key is at hand"
            text, hashed = disclosed(shown.sealed)
            withheld = bool(hashed & ~opened.envelope.flags)
            if not withheld:
                sealed, salt = msgspec.Raw(text), shown.salt.hex()
        except (SecretMismatch, UnreadableEvent):
            reason = "the sealed fields do not decrypt"
    values: dict[str, Any] = msgspec.structs.asdict(leaf)
    values["clear"] = msgspec.Raw(canonical(opened.clear))
    return ExportLine(**values, sealed=sealed, salt=salt or None, withheld=withheld, unreadable=reason)
