"""The audit trail as an area of its own: who has read it.

Each reading is a stream of one event, so that noting it never waits for another reading.
"""

from typing import ClassVar, Literal

from domain.core.events import Category, Event

What = Literal["events", "stream", "export"]


class AuditRead(Event, frozen=True):
    """Somebody was shown what others did."""

    name: ClassVar[str] = "audit.read"
    read_id: int
    what: What
    filter: dict[str, str] = {}
    """What was asked for, by the names of the parameters."""
    shown: int | None = None
    """Events in the answer; None where it was still to be sent."""
    project_id: int | None = None
    """The one that the reading was limited to."""

    @property
    def stream(self) -> str:
        return f"audit-read-{self.read_id}"


def evolve(state: AuditRead | None, event: Event) -> AuditRead | None:
    match event:
        case AuditRead():
            return event
        case _:
            return state


AUDIT_READ = Category[AuditRead | None]("audit-read", None, evolve)
EVENTS = (AuditRead,)
