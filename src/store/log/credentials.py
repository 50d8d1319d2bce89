"""Credentials in the sealed fields of events: hashes of passwords and tokens, and what is sealed by the secret key.

Whoever reads an export gets the hash of a credential instead. An event's commitment covers these hashes, not the
credentials, so the rest of its sealed fields can be verified without them.
"""

import hashlib
from typing import Any

import msgspec

FIELDS = frozenset({"password_hash", "token_hash", "sealed_secret", "sealed_url", "sealed_webhook_secret"})
"""Sealed fields of events that are credentials. So are the `secrets` of a `configuration`."""


def withhold(fields: Any) -> Any:
    """Returns the fields of an event with hashes in place of credentials; the same object if they have none."""
    if not isinstance(fields, dict):
        return fields
    hashed: dict[str, Any] = {name: _hash(fields[name]) for name in FIELDS & fields.keys() if fields[name]}
    match fields.get("configuration"):
        case {"secrets": dict(secrets), **others} if secrets:
            hashed["configuration"] = others | {"secrets": {name: _hash(value) for name, value in secrets.items()}}
    return fields | hashed if hashed else fields


def _hash(value: Any) -> dict[str, str]:
    """Returns the SHA-256 of a credential's JSON. Each has at least 128 random bits, so nobody can guess it."""
    return {"sha256": hashlib.sha256(msgspec.json.encode(value)).hexdigest()}
