"""Finds events that read as erased although no deletion in the log destroyed their data key.

The verifier of exports uses this module. Destroying a data key is legitimate only together with a deletion that is in
the log.
"""

from collections.abc import Iterable, Iterator, Mapping

import msgspec

from domain.core.data_keys import lineage
from domain.core.events import Event
from domain.registry import EVENTS, UPCASTERS
from store.audit.export_lines import ExportLine

ERASING: Mapping[str, type[Event]] = {name: event for name, event in EVENTS.items() if event.destroys_key}
"""Event classes whose events destroy a data key when they are appended, by event name."""


def erased_key(line: ExportLine) -> str | None:
    """Returns the name of the data key that the event on this line destroys. None when it destroys none."""
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
    """Collects data keys from the lines of an export: keys whose events read as erased, and keys that deletions
    destroyed.
    """

    def __init__(self) -> None:
        self._erased: dict[str, list[int]] = {}
        """Data key -> [position of the first event with this key that reads as erased, number of such events]."""
        self._readable: dict[str, int] = {}
        """Data key -> checkpoint size of the newest export in which an event with this key was readable."""
        self._destroyed: dict[str, int] = {}
        """Data key -> position of the deletion that destroyed the key."""
        self._destroyed_later = set[str]()

    def read(self, position: int, line: ExportLine, size: int) -> None:
        """Adds the event on a line of an export. The line must have been verified. `size` is the size of the export's
        checkpoint.
        """
        if line.commitment and line.sealed is not msgspec.UNSET:
            self._readable[line.key or ""] = max(size, self._readable.get(line.key or "", 0))
        if line.commitment and line.sealed is msgspec.UNSET and not line.withheld:
            self._erased.setdefault(line.key or "", [position, 0])[1] += 1
        if (key := erased_key(line)) is not None:
            self._destroyed[key] = position

    def read_later(self, keys: Iterable[str]) -> None:
        """Adds data keys that were destroyed after the export's checkpoint. The checkpoint does not cover these
        deletions, so they are not proved.
        """
        self._destroyed_later.update(keys)

    @property
    def claimed(self) -> list[str]:
        """The data keys whose events read as erased, because of deletions after the checkpoint. The checkpoint does not
        prove these deletions: only the export says that they happened.
        """
        unproved = [key for key in self._erased if self._destroyed.keys().isdisjoint(lineage(key))]
        return [key for key in unproved if not self._destroyed_later.isdisjoint(lineage(key))]

    def unexplained(self, topmost: str | None = None) -> Iterator[tuple[int, str, int]]:
        """Yields (position, key, count) for each data key whose events read as erased although no deletion destroyed
        the key. `position` is the position of the first such event, `count` the number of such events.

        An export of one project lacks deletions outside the project. For such an export, pass the project's key as
        `topmost`: then only this key and the keys below it are considered. None considers all keys.
        """
        deleted = self._destroyed.keys() | self._destroyed_later
        for key, (position, events) in self._erased.items():
            above = lineage(key)
            if deleted.isdisjoint(above) and topmost in (None, above[0]):
                yield position, key, events

    @property
    def undone(self) -> set[tuple[int, str]]:
        """The deletions without effect, as (position, key): the export covers the deletion, but still shows events with
        the destroyed key.

        A file may consist of several exports. Events in an export that was made before the deletion do not count: the
        key still existed.
        """
        return {
            (self._destroyed[above], above)
            for key, size in self._readable.items()
            for above in lineage(key)
            if self._destroyed.get(above, size + 1) <= size
        }
