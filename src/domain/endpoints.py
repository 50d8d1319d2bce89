"""Endpoints: the addresses to which notifications are delivered. An endpoint is a webhook or a Teams channel.

Commands, projections and workers handle both kinds alike: they match on the base classes in this file. The subclasses
in `domain.webhooks` and `domain.teams` define the stored names and fields.
"""

import re
from typing import ClassVar, Literal, TypeVar
from urllib.parse import urlsplit

import msgspec

from domain.core.events import Event, changes_of

EndpointKind = Literal["webhook", "teams"]
"""Kind of an endpoint. It determines the format of the messages and the classes of the events about the endpoint. These
values are stored, so they must not change.
"""

MASK = "***"
"""Text that replaces the secret parts of a URL."""
_SHOWN_SEGMENTS = {"hooks.slack.com": 1, "hooks.zapier.com": 2, "discord.com": 2, "discordapp.com": 2}
"""Host -> number of segments at the beginning of the path that are not secret. The hosts are those of services whose
secrets may be too short for `may_be_token` to find.
"""
_LONGEST_PLAIN = 15
"""A part of a URL with this number of characters or fewer is always shown, since tokens are longer."""
_WORDS = re.compile(r"[a-z]{1,12}([-_.][a-z]{1,12})+")
NOT_A_FIELD = "subclasses declare it as a field or a property"


class EndpointEvent(Event, frozen=True):
    """Base of all events about one endpoint and its deliveries."""

    kind: ClassVar[EndpointKind]

    @property
    def endpoint_id(self) -> int:
        """The id of the endpoint, which is unique among endpoints of all kinds."""
        raise NotImplementedError(NOT_A_FIELD)

    @property
    def project_id(self) -> int | None:
        """The project of the endpoint; None for an endpoint that is notified about all projects."""
        raise NotImplementedError(NOT_A_FIELD)


class EndpointRegistered(EndpointEvent, frozen=True):
    """Base of the events that begin an endpoint's stream."""


class EndpointUpdated(EndpointEvent, frozen=True):
    """Base of the events that change fields of an endpoint. A field that is None is unchanged."""


class EndpointDeleted(EndpointEvent, frozen=True):
    """Base of the events that delete an endpoint: its open deliveries are dropped and its data key is destroyed."""

    destroys_key: ClassVar[bool] = True


class EndpointFailing(EndpointEvent, frozen=True):
    """Base of the events that record that many attempts in a row failed. Deliveries to the endpoint then slow down, but
    none is lost.
    """

    @property
    def error(self) -> str:
        """Description of the last failure."""
        raise NotImplementedError(NOT_A_FIELD)


class EndpointRecovered(EndpointEvent, frozen=True):
    """Base of the events that record that a failing endpoint accepts deliveries again."""


class Endpoint(msgspec.Struct, frozen=True):
    """Base of the states of endpoints."""

    @property
    def endpoint_id(self) -> int:
        raise NotImplementedError(NOT_A_FIELD)

    @property
    def project_id(self) -> int | None:
        raise NotImplementedError(NOT_A_FIELD)

    @property
    def failing(self) -> bool:
        raise NotImplementedError(NOT_A_FIELD)

    @property
    def deleted(self) -> bool:
        raise NotImplementedError(NOT_A_FIELD)


E = TypeVar("E", bound=Endpoint)


def evolve_endpoint(state: E | None, event: Event) -> E | None:
    """Returns the state of an endpoint after an event of a type that webhooks and channels share. Any other event
    leaves the state unchanged.
    """
    if state is None:
        return None
    match event:
        case EndpointUpdated():
            return msgspec.structs.replace(state, **changes_of(event))
        case EndpointFailing() | EndpointRecovered():
            return msgspec.structs.replace(state, failing=isinstance(event, EndpointFailing))
        case EndpointDeleted():
            return msgspec.structs.replace(state, deleted=True)
        case _:
            return state


def mask_url(url: str) -> str:
    """Returns the URL with `***` in place of its secret parts: the user info, the values in the query, the fragment,
    and each segment of the path that may be a token (`may_be_token`). For a host in _SHOWN_SEGMENTS, also masks all
    segments of the path beyond the number that is listed for the host.
    """
    parts = urlsplit(url)
    user, _, address = parts.netloc.rpartition("@")
    shown = _SHOWN_SEGMENTS.get(parts.hostname or "", len(url))
    segments = enumerate(parts.path.split("/"))  # the path begins with `/`, so its first segment is empty
    pairs = [pair.partition("=") for pair in parts.query.split("&")] if parts.query else []
    return parts._replace(
        netloc=f"{MASK}@{address}" if user else address,
        path="/".join(MASK if part and at > shown else _mask(part) for at, part in segments),
        query="&".join(f"{_mask(name)}={MASK}" if equals else MASK for name, equals, _ in pairs),
        fragment=MASK if parts.fragment else "",
    ).geturl()


def _mask(part: str) -> str:
    return MASK if may_be_token(part) else part


def may_be_token(part: str) -> bool:
    """Returns whether a part of a URL may be a token: it has 16 or more characters, and is not made of words in small
    letters such as `incoming-web-hook`.
    """
    return len(part) > _LONGEST_PLAIN and not _WORDS.fullmatch(part)
