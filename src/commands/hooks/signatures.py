"""Verifies the signatures of inbound hooks, which prove that the sender knows the project's webhook secret."""

import base64
import hashlib
import hmac
from collections.abc import Mapping
from datetime import datetime

SIGNATURE_HEADERS = ("x-hub-signature-256", "x-hub-signature", "x-gitlab-token", "webhook-signature")
MAX_AGE_S = 300
"""Largest difference in seconds between the server's clock and the timestamp of a message, in both directions. The
timestamp is signed together with the body (Standard Webhooks).
"""


def find_refusal(headers: Mapping[str, str]) -> str | None:
    """Returns why the message cannot be verified with any secret; None if it has a signature that can be checked. Names
    of headers must be in lower case.
    """
    if not any(headers.get(name) for name in SIGNATURE_HEADERS):
        return (
            "The message has no signature: set the project's webhook_secret as the secret of the hook, so that it sends"
            " X-Hub-Signature-256 (GitHub), X-Hub-Signature (Bitbucket), X-Gitlab-Token or webhook-signature (GitLab)."
        )
    if "x-hub-signature-256" not in headers and headers.get("x-hub-signature", "").startswith("sha1="):
        return "The message is signed by SHA-1 only, which is not accepted: send X-Hub-Signature-256."
    return None


def is_signed(headers: Mapping[str, str], body: bytes, secret: str, now: datetime) -> bool:
    """Returns whether a message is signed with the secret. If the message has several signatures, the strongest one
    counts. The comparison takes the same time for any wrong signature.
    """
    if not secret:
        return False
    key = secret.encode()
    hub = headers.get("x-hub-signature-256") or headers.get("x-hub-signature")
    if hub:
        expected = f"sha256={hmac.new(key, body, hashlib.sha256).hexdigest()}"
        return hmac.compare_digest(hub.strip().lower().encode(), expected.encode())
    if given := headers.get("webhook-signature"):
        return _has_standard_signature(headers, body, given, key, now)
    return hmac.compare_digest(headers.get("x-gitlab-token", "").encode(), key)


def make_signing_token(secret: str) -> str:
    """Returns the signing token for GitLab that belongs to a project's secret. GitLab takes only tokens of this form:
    `whsec_` and base64 of 32 bytes.
    """
    return f"whsec_{base64.b64encode(hashlib.sha256(secret.encode()).digest()).decode()}"


def _has_standard_signature(headers: Mapping[str, str], body: bytes, given: str, key: bytes, now: datetime) -> bool:
    timestamp = headers.get("webhook-timestamp", "")
    if not timestamp.isascii() or not timestamp.isdigit() or len(timestamp) > len("99999999999"):
        return False
    if abs(now.timestamp() - int(timestamp)) > MAX_AGE_S:
        return False
    signed = f"{headers.get('webhook-id', '')}.{timestamp}.".encode() + body
    digest = hmac.digest(hashlib.sha256(key).digest(), signed, hashlib.sha256)
    expected = f"v1,{base64.b64encode(digest).decode()}".encode()
    found = [hmac.compare_digest(one.encode(), expected) for one in given.split()]
    return any(found)
