"""Interface to issue trackers. `integrations.ports` has the interfaces to other outside systems."""

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Protocol

from domain.jira import JiraIntegration


class TicketFailure(Exception):
    """A call of an issue tracker failed. The message is a sentence that names the host and the reason, without secrets.

    TicketFailure
        ├── TicketsUnavailable   a later try may succeed
        └── TicketRejected       a later try succeeds only after somebody has changed the tracker or the integration
    """


class TicketRejected(TicketFailure):
    pass


class TicketsUnavailable(TicketFailure):
    """The host cannot be reached, fails, or has had too many requests."""

    def __init__(self, sentence: str, retry_after_s: int = 0) -> None:
        super().__init__(sentence)
        self.retry_after_s = retry_after_s
        """Seconds that the host asks to wait; 0 if it does not say."""


@dataclass(frozen=True)
class Paragraph:
    text: str
    link: str = ""
    """URL to which the whole text links; empty without a link."""


@dataclass(frozen=True)
class Bullets:
    items: Sequence[str]


@dataclass(frozen=True)
class Preformatted:
    text: str


TicketBlock = Paragraph | Bullets | Preformatted
TicketText = Sequence[TicketBlock]
"""Blocks of text. The tracker shows their texts as they are: nothing in them is markup."""


@dataclass(frozen=True)
class NewTicket:
    summary: str
    text: TicketText
    labels: Sequence[str]


@dataclass(frozen=True)
class Ticket:
    key: str
    url: str


class TicketHost(Protocol):
    """One project of a tracker. Each call takes 10 s at most and raises TicketFailure."""

    async def check(self) -> None:
        """Raises TicketFailure if tickets cannot be created, as far as this can be found out without creating one."""
        ...

    async def find(self, label: str) -> Ticket | None:
        """Returns the oldest ticket of the project with this label; None if there is none."""
        ...

    async def create(self, ticket: NewTicket) -> Ticket: ...

    async def comment(self, key: str, text: TicketText) -> None: ...

    async def reopen(self, key: str) -> bool:
        """Reopens a ticket that is done. Returns True if the ticket is open now, and False if the ticket's workflow
        does not allow to reopen it.
        """
        ...


@dataclass(frozen=True)
class NewIntegration:
    """Fields of a Jira integration, as a user enters them. Fields that the user does not enter are empty."""

    host: str = ""
    token: str = field(default="", repr=False)
    project_key: str = ""


class TicketHosts(Protocol):
    """Opens the Jira projects of integrations."""

    async def check(self, integration: NewIntegration, *, is_admin: bool) -> None:
        """Raises Invalid, which names the field, if the integration's fields cannot be used or its host may not be
        called. Does not call the host.
        """
        ...

    def open(self, integration: JiraIntegration) -> TicketHost:
        """Returns the Jira project of an integration. Makes no call."""
        ...
