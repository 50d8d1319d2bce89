"""Leadership of dispatch: a dispatcher that has lost the leadership cannot assign builds, because its appends fail.

Each dispatcher that becomes the leader appends an event to the leader stream. After another dispatcher has appended a
newer event to this stream, the assignments of the earlier leader fail. Therefore a leader can count the used slots of
nodes, pools and jobs in memory, and several dispatchers together never exceed a limit
(docs/decisions/0003-dispatch-fence.md).
"""

from typing import ClassVar

from domain.core.events import Category, Event


class LeadershipTaken(Event, frozen=True):
    name: ClassVar[str] = "dispatch.leadership_taken"
    leader: str

    @property
    def stream(self) -> str:
        return "dispatch-leader"


def evolve(state: str, event: Event) -> str:
    match event:
        case LeadershipTaken():
            return event.leader
        case _:
            return state


LEADER = Category("dispatch", "", evolve)
EVENTS = (LeadershipTaken,)
