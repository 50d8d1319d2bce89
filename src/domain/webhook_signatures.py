"""Headers that sign webhook deliveries: those of Standard Webhooks, and one with a hex HMAC-SHA256 of the body."""

import base64
import hashlib
import hmac
from datetime import datetime

PREFIX = "whsec_"
KEY_BYTES = range(24, 64 + 1)
"""Lengths, in bytes, that Standard Webhooks allows for the key of a `whsec_` secret."""


def decode_key(secret: str) -> bytes:
    """Returns the key that signs by Standard Webhooks: the decoded base64 of a `whsec_` secret, or the bytes of any
    other secret.

    Raises ValueError for a `whsec_` secret that is not base64.
    """
    if not secret.startswith(PREFIX):
        return secret.encode()
    try:
        return base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except ValueError:
        raise ValueError("begins with whsec_ but what follows is no base64") from None


def check_secret(secret: str) -> None:
    """Raises ValueError for a `whsec_` secret whose key is not base64 or has a wrong length. Call it for new secrets
    only: older secrets with other lengths still sign.
    """
    length = len(decode_key(secret))
    if secret.startswith(PREFIX) and length not in KEY_BYTES:
        raise ValueError(f"begins with whsec_ but what follows is base64 of {length} bytes, not of 24 to 64")


def build_headers(
    secret: str | None, delivery_id: str, event_type: str, at: datetime, body: bytes, *, replay: bool = False
) -> dict[str, str]:
    """Returns the headers of a delivery. Without a `secret` they contain no signature. With `replay`, a header says
    that the delivery repeats an earlier event.
    """
    timestamp = str(int(at.timestamp()))
    headers = {
        "Content-Type": "application/json",
        "webhook-id": delivery_id,
        "webhook-timestamp": timestamp,
        "X-Testhide-Event": event_type,
        "X-Testhide-Delivery": delivery_id,
    }
    if replay:
        headers["X-Testhide-Replay"] = "true"
    if secret is not None:
        signed = f"{delivery_id}.{timestamp}.".encode() + body
        signature = base64.b64encode(hmac.digest(decode_key(secret), signed, hashlib.sha256)).decode()
        headers["webhook-signature"] = f"v1,{signature}"
        headers["X-Testhide-Signature-256"] = "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    return headers
