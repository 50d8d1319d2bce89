"""Who dispatches: the fence that keeps a dispatcher that lost its leadership from assigning builds.

Every assignment is guarded by this one stream: it only holds while no newer leader has taken over. So limits of
nodes, pools and jobs can be kept in the leader's memory and are still never overrun, by however many dispatchers
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
