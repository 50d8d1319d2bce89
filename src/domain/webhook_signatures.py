"""How deliveries are signed: the headers of Standard Webhooks, and HMAC-SHA256 of the body as hex."""

import base64
import hashlib
import hmac
from datetime import datetime

PREFIX = "whsec_"
KEY_BYTES = range(24, 64 + 1)
"""How long the key of a `whsec_` secret may be, by Standard Webhooks."""


def key_of(secret: str) -> bytes:
    """What Standard Webhooks signs with: `whsec_` secrets are base64, others are taken as they are.

    Raises ValueError for a `whsec_` secret that is no base64.
    """
    if not secret.startswith(PREFIX):
        return secret.encode()
    try:
        return base64.b64decode(secret.removeprefix(PREFIX), validate=True)
    except ValueError:
        raise ValueError("begins with whsec_ but what follows is no base64") from None


def must_be_good(secret: str) -> None:
    """Raises ValueError for a `whsec_` secret that is none. One that was taken before this was asked still signs."""
    length = len(key_of(secret))
    if secret.startswith(PREFIX) and length not in KEY_BYTES:
        raise ValueError(f"begins with whsec_ but what follows is base64 of {length} bytes, not of 24 to 64")


def headers(
    secret: str | None, delivery_id: str, event_type: str, at: datetime, body: bytes, *, replay: bool = False
) -> dict[str, str]:
    """All headers of a delivery; without a secret none that signs."""
    timestamp = str(int(at.timestamp()))
    found = {
        "Content-Type": "application/json",
        "webhook-id": delivery_id,
        "webhook-timestamp": timestamp,
        "X-Testhide-Event": event_type,
        "X-Testhide-Delivery": delivery_id,
    }
    if replay:
        found["X-Testhide-Replay"] = "true"
    if secret is not None:
        signed = f"{delivery_id}.{timestamp}.".encode() + body
        signature = base64.b64encode(hmac.digest(key_of(secret), signed, hashlib.sha256)).decode()
        found["webhook-signature"] = f"v1,{signature}"
        found["X-Testhide-Signature-256"] = "sha256=" + hmac.new(secret.encode(), body, hashlib.sha256).hexdigest()
    return found
