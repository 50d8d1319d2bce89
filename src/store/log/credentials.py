"""Finds credentials in the sealed fields of events: hashes of passwords and tokens, values that a root key seals, and
URLs, which often contain a token.

An export shows a hash in place of each credential. The commitment of an event covers these hashes and not the
credentials, so a reader can verify the commitment without knowing the credentials.
"""

import hashlib
from collections.abc import Callable
from functools import cache
from typing import Any

import msgspec
from msgspec.structs import force_setattr

from domain.core.events import Event

HASHED_CREDENTIALS = 4
"""Flag of a stored state: its commitment covers hashes in place of credentials. Older releases do not set the flag:
their commitments cover the credentials themselves.
"""
HASHED_URLS = 8
"""Flag of a stored state: its commitment covers hashes in place of URLs. Older releases do not set the flag: their
commitments cover the URLs themselves.
"""
SEALED = ("sealed_secret", "sealed_url", "sealed_webhook_secret", "sealed_token", "sealed_password", "sealed_env")
"""Names of sealed fields whose values were encrypted with a root key before the event was encoded. The values in the
`secrets` of a configuration were encrypted in this way, too.
"""
URL = "url"
FIELDS = frozenset({"password_hash", "token_hash", URL, *SEALED})
"""Names of the sealed fields that are credentials. The values in the `secrets` of a configuration are credentials, too.
"""


def withhold(fields: Any) -> tuple[Any, int]:
    """Returns (fields, flags). `fields` are the fields of an event with hashes in place of credentials. `flags` are the
    flags of a stored state that say which kinds of credentials were hashed.
    """
    if not isinstance(fields, dict):
        return fields, 0
    hashed: dict[str, Any] = {name: _hash(fields[name]) for name in FIELDS & fields.keys() if fields[name]}
    match fields.get("configuration"):
        case {"secrets": dict(secrets), **others} if secrets:
            hashed["configuration"] = others | {"secrets": {name: _hash(value) for name, value in secrets.items()}}
    flags = HASHED_URLS if URL in hashed else 0
    flags |= HASHED_CREDENTIALS if hashed.keys() - {URL} else 0
    return fields | hashed, flags


def reseal(event: Event, move: Callable[[bytes], bytes]) -> None:
    """Replaces each value that a root key seals by `move(value)`, which seals it with the newest root key. Changes only
    the event in memory; the log stays as it is.
    """
    for name in _sealed_names(type(event)):
        if value := getattr(event, name):
            force_setattr(event, name, move(value))
    configuration: Any = getattr(event, "configuration", None)
    if secrets := getattr(configuration, "secrets", None):
        moved = {name: move(value) for name, value in secrets.items()}
        force_setattr(event, "configuration", msgspec.structs.replace(configuration, secrets=moved))


@cache
def _sealed_names(event: type[Event]) -> list[str]:
    return [field.name for field in msgspec.structs.fields(event) if field.name in SEALED]


def _hash(value: Any) -> dict[str, str]:
    """Returns the SHA-256 of a credential's JSON. Nobody can guess a credential from its hash: a credential has at
    least 128 random bits, and a URL that can be guessed contains no secret.
    """
    return {"sha256": hashlib.sha256(msgspec.json.encode(value)).hexdigest()}
