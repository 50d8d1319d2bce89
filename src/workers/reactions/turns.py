"""Turns of projects: how many reactions of each project a process runs at the same time.

Without turns, one project with many due reactions would use all slots of a queue, and delay the reactions of other
projects.
"""

import contextlib
from collections import Counter
from collections.abc import Iterator, Mapping

from store.tables.reactions import PROJECT_SLOTS


class Turns:
    """Turns of all projects in one queue of this process."""

    def __init__(self) -> None:
        self._taken = Counter[int]()

    @contextlib.contextmanager
    def take(self, project_id: int) -> Iterator[bool]:
        """Context manager around a reaction of a project. Yields False if PROJECT_SLOTS reactions of the project are
        under way, so that this one must not run now.
        """
        if self._taken[project_id] >= PROJECT_SLOTS:
            yield False
            return
        self._taken[project_id] += 1
        try:
            yield True
        finally:
            self._taken[project_id] -= 1
            if not self._taken[project_id]:
                del self._taken[project_id]


def choose_first(due: Mapping[int, int | None]) -> list[int]:
    """Returns the positions of the reactions to queue now: the first PROJECT_SLOTS of each project, and all that take
    no turns. `due` is position -> id of the project; the id is None for a reaction that takes no turns.
    """
    chosen, counts = list[int](), Counter[int]()
    for position, project_id in due.items():
        if project_id is not None:
            counts[project_id] += 1
        if project_id is None or counts[project_id] <= PROJECT_SLOTS:
            chosen.append(position)
    return chosen
