"""Dismissals: decisions of an operator to leave parked events out of a read model.

Dismissals are events in the log. So a rebuild reads them, too, and leaves out the same parked events.
"""

from collections.abc import Sequence
from dataclasses import replace

from domain.projections import PROJECTION
from projections.engine.model import Projection
from store.log.event_log import EventLog

ANY_VERSION = 2**62
"""Number above all versions of a stream, so that the whole stream is read."""


async def with_dismissals(event_log: EventLog, projections: Sequence[Projection]) -> list[Projection]:
    """Returns copies of the projections, each with the positions of the events dismissed from it. Ignores dismissals
    that cannot be read.
    """
    streams = {projection.name: PROJECTION.at(projection.name) for projection in projections}
    found = await event_log.load_up_to({stream.name: ANY_VERSION for stream in streams.values()})
    return [
        replace(item, dismissed=stream.fold(recorded.event for recorded in found[stream.name]))
        for item in projections
        for stream in (streams[item.name],)
    ]
