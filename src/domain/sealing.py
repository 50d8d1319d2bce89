"""Whose signature the audit log's checkpoints carry. The keys stand in the log itself, so that each vouches for the
next: who trusts one of them can follow.
"""

from typing import ClassVar

from domain.core.events import Category, Event


class SigningKeyChanged(Event, frozen=True):
    """The first checkpoint that covers this event is still signed by the key before, later ones by this one."""

    name: ClassVar[str] = "audit.signing_key_changed"
    public_key: str
    """As a verifier key: NAME+ID+KEY."""

    @property
    def stream(self) -> str:
        return SIGNING_KEY.name


def evolve(state: str | None, event: Event) -> str | None:
    match event:
        case SigningKeyChanged():
            return event.public_key
        case _:
            return state


SIGNING_KEY = Category[str | None]("audit", None, evolve).at("signing-keys")
EVENTS = (SigningKeyChanged,)
