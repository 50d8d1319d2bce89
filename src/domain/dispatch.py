"""Leadership of dispatch: a dispatcher that lost the leadership cannot assign builds.

The version of this one stream is a guard of every assignment, so an assignment fails when a newer leader has taken
over. Therefore a leader can count the used slots of nodes, pools and jobs in memory, and several dispatchers never
exceed a limit together (docs/decisions/0003-dispatch-fence.md).
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
