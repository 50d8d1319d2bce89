"""Leadership of dispatch: the fence that keeps a dispatcher that lost it from assigning builds.

Every assignment is guarded by this one stream, so it fails when a newer leader has taken over. Therefore the leader can
keep the limits of nodes, pools and jobs in memory, and several dispatchers never exceed them
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
