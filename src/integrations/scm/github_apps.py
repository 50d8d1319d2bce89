"""Fetches tokens of GitHub Apps. An app signs in with its private key, and gets a token that is valid for one
installation and for one hour.
"""

import hashlib
from datetime import UTC, datetime, timedelta
from typing import Annotated

import jwt
import msgspec
from cachetools import LRUCache
from cryptography.hazmat.primitives.asymmetric.rsa import RSAPrivateKey
from cryptography.hazmat.primitives.serialization import load_pem_private_key

from integrations.ports import Outgoing
from integrations.scm.github import api_of

MIN_REMAINING_LIFETIME = timedelta(minutes=10)
"""Least time for which a returned token is still valid, so that a checkout can end before the token expires."""
BACKDATED = timedelta(minutes=1)
"""Time by which a signature is dated back, so that GitHub accepts it even if its clock is behind ours."""
SIGNATURE_LIFETIME = timedelta(minutes=8)
"""Time for which the signature of an app is valid. GitHub accepts ten minutes at most."""
MAX_TOKEN_AGE = timedelta(hours=1)
"""Longest time for which a token is kept, even if the host says that it is valid for longer. GitHub's tokens are valid
for an hour.
"""
MAX_TOKENS = 1_000
"""Largest number of tokens that a process keeps."""


class _InstallationToken(msgspec.Struct):
    token: Annotated[str, msgspec.Meta(pattern=r"\A[\x21-\x7e]{1,10000}\Z")]
    expires_at: Annotated[datetime, msgspec.Meta(tz=True)]


class GitHubApps:
    """Fetches tokens of installations, and keeps each token until shortly before it expires."""

    def __init__(self, outgoing: Outgoing) -> None:
        self._outgoing = outgoing
        self._tokens: LRUCache[tuple[str, int, int, bytes], _InstallationToken] = LRUCache(MAX_TOKENS)

    async def fetch_token(self, base_url: str, app_id: int, installation_id: int, private_key: str) -> str:
        """Returns a token that is valid for at least MIN_REMAINING_LIFETIME. Raises SourceFailure."""
        now = datetime.now(UTC)
        key = (base_url, app_id, installation_id, hashlib.sha256(private_key.encode()).digest())
        known = self._tokens.get(key)
        if known is None or known.expires_at < now + MIN_REMAINING_LIFETIME:
            claims = {"iat": now - BACKDATED, "exp": now + SIGNATURE_LIFETIME, "iss": str(app_id)}
            api = api_of(self._outgoing, base_url, "", jwt.encode(claims, private_key, algorithm="RS256"))
            missing = f"installation {installation_id} of the GitHub App {app_id}"
            answer = await api.call("POST", f"/app/installations/{installation_id}/access_tokens", missing=missing)
            known = api.read(answer, _InstallationToken)
            known.expires_at = min(known.expires_at, now + MAX_TOKEN_AGE)
            self._tokens[key] = known
        return known.token


def check_private_key(text: str) -> None:
    """Raises ValueError if the text is not an RSA private key as PEM without a password."""
    try:
        key = load_pem_private_key(text.encode(), None)
    except TypeError:
        raise ValueError("it has a password") from None
    if not isinstance(key, RSAPrivateKey):
        raise ValueError("it is no RSA key")
