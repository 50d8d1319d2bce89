"""Compares what reads as erased with the deletions of the log: a data key is destroyed by an event, or unnoticed."""

from collections.abc import Iterable, Iterator, Mapping

import msgspec

from domain.core.data_keys import lineage
from domain.core.events import Event
from domain.registry import EVENTS, UPCASTERS
from store.audit.export_lines import ExportLine

ERASING: Mapping[str, type[Event]] = {name: event for name, event in EVENTS.items() if event.destroys_key}
"""Types of events whose append destroys a data key, by name."""


def erased_key(line: ExportLine) -> str | None:
    """Returns the data key that the event of a line destroys; None for most events."""
    kind = ERASING.get(line.type or "")
    if kind is None or line.class_version is None or line.clear is msgspec.UNSET:
        return None
    try:
        fields = msgspec.json.decode(line.clear)
        for old in range(line.class_version, kind.class_version):
            fields = UPCASTERS[kind.name, old](fields)
        return msgspec.convert(fields, kind).erases
    except (msgspec.MsgspecError, KeyError):
        return None


class Erasures:
    """Collects data keys whose events read as erased, and those that deletions destroyed; some bytes for each."""

    def __init__(self) -> None:
        self._erased: dict[str, list[int]] = {}
        """Position of the first event and number of events, by key."""
        self._destroyed = set[str]()
        self._destroyed_later = set[str]()

    def read(self, position: int, line: ExportLine) -> None:
        """Takes a verified event."""
        if line.commitment and line.sealed is msgspec.UNSET:
            self._erased.setdefault(line.key or "", [position, 0])[1] += 1
        if (key := erased_key(line)) is not None:
            self._destroyed.add(key)

    def read_later(self, keys: Iterable[str]) -> None:
        """Takes keys that were destroyed by events after the export's checkpoint, which it does not prove."""
        self._destroyed_later.update(keys)

    @property
    def claimed(self) -> list[str]:
        """The keys that read as erased, of which the export only claims that a later deletion destroyed them."""
        unproved = [key for key in self._erased if self._destroyed.isdisjoint(lineage(key))]
        return [key for key in unproved if not self._destroyed_later.isdisjoint(lineage(key))]

    def unexplained(self, topmost: str | None = None) -> Iterator[tuple[int, str, int]]:
        """Yields (position, key, events) for each key that reads as erased although nothing deleted it.

        `topmost` is the key below which the export has all deletions; None: it has those of all keys.
        """
        deleted = self._destroyed | self._destroyed_later
        for key, (position, events) in self._erased.items():
            above = lineage(key)
            if deleted.isdisjoint(above) and topmost in (None, above[0]):
                yield position, key, events
