"""Reads the messages of inbound hooks: finds out which host sent a message, and which changes the message reports."""

from collections.abc import Mapping

import msgspec

from commands.hooks import bitbucket, github, gitlab
from commands.hooks.message import HookMessage
from domain.core.errors import Invalid

DELIVERY_HEADERS = (
    "x-github-delivery",
    "idempotency-key",  # GitLab; all tries at one message have the same key
    "webhook-id",
    "x-gitlab-event-uuid",
    "x-request-uuid",
    "x-request-id",
)
"""Names of headers that contain the id of a message; the first one that is present counts. A host uses the same id when
it sends a message again.
"""


def read_message(headers: Mapping[str, str], body: bytes) -> HookMessage:
    """Returns the decoded message of a request whose signature was verified. Names of headers must be in small letters.
    Raises Invalid if the body cannot be read.
    """
    try:
        if event := headers.get("x-github-event"):
            return github.read_message(event, body)
        if event := headers.get("x-gitlab-event"):
            return gitlab.read_message(event, body)
        if event := headers.get("x-event-key"):
            return bitbucket.read_message(event, body)
        return github.read_message("push", body)  # no header names the event, as in the API's reference
    except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError) as error:
        reason = "it is nested too deeply" if isinstance(error, RecursionError) else str(error)
        raise Invalid(f"The payload cannot be read: {reason}.") from None


def find_delivery_id(headers: Mapping[str, str]) -> str:
    """Returns the id that the host gave to the message; empty if it gave none."""
    return next((value[:200] for name in DELIVERY_HEADERS if (value := headers.get(name))), "")
