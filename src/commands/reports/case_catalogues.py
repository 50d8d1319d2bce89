"""Reads from the log which ids the test cases of a project have, and checks the ids that a report is about to record.
The read model finds the id of a test faster. But somebody may have changed its rows by hand, and the ids that a report
records stay in the log for ever.
"""

from array import array
from bisect import bisect_right, insort
from collections import OrderedDict
from collections.abc import Sequence

import structlog

from domain.core.events import readable
from domain.results import CasesSeen, cases_stream
from store.log.event_log import EventLog

log = structlog.get_logger()

BATCH_SIZE = 10
"""Number of events that are read at once. An event has up to 10,000 test cases."""
MAX_CASES = 2_000_000
"""Largest number of test cases in memory, of all projects together. Above this number, the projects that were used
longest ago are dropped from memory. A test case takes 8 bytes.
"""


class _Catalogue:
    """Test cases of one project, with `hash(node_id)` instead of each node id. The hashes have 64 bits and another seed
    in each process, so that nobody can choose node ids with equal hashes.
    """

    def __init__(self) -> None:
        self.version = 0
        """Version up to which the project's stream of test cases was read."""
        self.size = 0
        self._first_ids: list[int] = []
        self._hashes: dict[int, array[int]] = {}
        """First case id of an event -> hashes of the node ids in the event."""

    def add(self, event: CasesSeen) -> None:
        insort(self._first_ids, event.first_case_id)
        self._hashes[event.first_case_id] = array("q", map(hash, event.node_ids))
        self.size += len(event.node_ids)

    def has(self, case_id: int, hashed: int) -> bool:
        """Returns whether a test case has this id and this hash."""
        index = bisect_right(self._first_ids, case_id) - 1
        if index < 0:
            return False
        first = self._first_ids[index]
        hashes = self._hashes[first]
        return case_id - first < len(hashes) and hashes[case_id - first] == hashed

    def list_ids(self) -> dict[int, int]:
        """Returns hash of the node id -> test case id, for all test cases."""
        return {
            hashed: first + number for first, hashes in self._hashes.items() for number, hashed in enumerate(hashes)
        }


class CaseCatalogues:
    def __init__(self) -> None:
        self._catalogues: OrderedDict[int, _Catalogue] = OrderedDict()

    async def check_ids(
        self, event_log: EventLog, project_id: int, node_ids: Sequence[str], case_ids: Sequence[int | None]
    ) -> tuple[int, list[int | None]]:
        """Checks test case ids from the read model: `case_ids[i]` should be the id of the test `node_ids[i]`. If the
        log gives this id to another test, replaces it by the right one.

        Returns two values: the version of the project's stream of test cases, and the list of ids. An id is None if the
        project has no test with that node id at this version.
        """
        catalogue = await self._follow(event_log, project_id)
        hashes = list(map(hash, node_ids))
        checked = [
            case_id if case_id is not None and catalogue.has(case_id, hashed) else None
            for case_id, hashed in zip(case_ids, hashes, strict=True)
        ]
        if None in checked:
            if wrong := [
                before for before, now in zip(case_ids, checked, strict=True) if before is not None and now is None
            ]:
                log.error("read model has other test cases than the log", project=project_id, case_ids=wrong[:10])
            ids = catalogue.list_ids()
            checked = [
                ids.get(hashed) if case_id is None else case_id for case_id, hashed in zip(checked, hashes, strict=True)
            ]
        return catalogue.version, checked

    async def _follow(self, event_log: EventLog, project_id: int) -> _Catalogue:
        catalogue = self._catalogues.setdefault(project_id, _Catalogue())
        self._catalogues.move_to_end(project_id)
        is_full = True
        while is_full:
            events = await event_log.read_stream(cases_stream(project_id), catalogue.version, BATCH_SIZE)
            for recorded in readable(events):
                if isinstance(recorded.event, CasesSeen) and recorded.version > catalogue.version:
                    catalogue.add(recorded.event)
                    catalogue.version = recorded.version
            is_full = len(events) == BATCH_SIZE
        while len(self._catalogues) > 1 and sum(each.size for each in self._catalogues.values()) > MAX_CASES:
            self._catalogues.popitem(last=False)
        return catalogue
