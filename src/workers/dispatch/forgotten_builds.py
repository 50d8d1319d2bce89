"""Finds forgotten builds: those that run as far as the server knows, but that the heartbeats of their agents do not
name. No input or output.

An agent names a build from the moment when it gets the `run` message until the server has accepted the build's end. So
a build that it does not name any more has been dropped, for example because of a defect, and nobody would report its
end.
"""

from collections.abc import Iterable, Mapping
from typing import NamedTuple

from store.tables.agent_gauges import RunningBuilds
from workers.dispatch.dispatch_state import ActiveBuild

FORGOTTEN_AFTER_S = 30.0
"""Seconds after which a build is lost if no heartbeat of its agent has named it. An agent sends a heartbeat every 10 s.
The limit must be longer than it takes to deliver a `run` message and then a heartbeat.
"""
MIN_HEARTBEATS = 2
"""Number of heartbeats in a row that have to lack a build before the build is lost. One heartbeat is not enough: it may
be older than the build, since an agent repeats a heartbeat until the server answers it.
"""


class _Absence(NamedTuple):
    """Absence of a build from the heartbeats of its agent. `since` is the time at which the absence began."""

    since: float
    uptime_s: int
    """Uptime of the machine in the latest heartbeat of the build's session; -1 before the session's first heartbeat. A
    later heartbeat does not count if its uptime is not longer than this: it was sent earlier, and came late.
    """
    heartbeats: int = 0
    """Number of heartbeats since the absence began."""


class ForgottenBuilds:
    def __init__(self, after_s: float) -> None:
        self._after_s = after_s
        self._absences: dict[tuple[int, int], _Absence] = {}
        """(Build id, attempt) -> absence, for each build that had a node at the last call of `find`."""

    def find(
        self, active: Iterable[ActiveBuild], running: Mapping[int, RunningBuilds], now: float
    ) -> list[ActiveBuild]:
        """Returns the builds that their agents have forgotten. `active` are all builds that have a node, `running` is
        what the last heartbeat of each node named, and `now` is in seconds by any clock.
        """
        earlier, self._absences = self._absences, {}
        forgotten = []
        for build in active:
            attempt = build.build.build_id, build.build.attempt
            absence = _continue(earlier.get(attempt), attempt, build.session, running.get(build.node_id), now)
            self._absences[attempt] = absence
            if absence.heartbeats >= MIN_HEARTBEATS and now - absence.since >= self._after_s:
                forgotten.append(build)
        return forgotten


def _continue(
    absence: _Absence | None,
    attempt: tuple[int, int],
    session: str | None,
    heartbeat: RunningBuilds | None,
    now: float,
) -> _Absence:
    if heartbeat is None or heartbeat.session != session:
        return absence or _Absence(now, -1)
    if absence is None or attempt in heartbeat.builds:
        return _Absence(now, heartbeat.uptime_s)
    if heartbeat.uptime_s <= absence.uptime_s:
        return absence
    return _Absence(absence.since, heartbeat.uptime_s, absence.heartbeats + 1)
