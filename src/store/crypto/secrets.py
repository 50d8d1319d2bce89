"""What the server keeps secret, all derived from one 32-byte master secret.

- `seal`/`unseal`: values that are stored and used again (webhook secrets, a job's secrets).
- data keys: a random key for each project, job, build, user and so on, wrapped by its parent's, the topmost by the
  master; its destruction erases what it encrypts and what its children do.
- `claim`: the name of a value's claim stream.
- `session_key`: signs session tokens. `responses_key`: seals answers that may be given again.
- `token_hash`: how tokens are stored.
"""

import hashlib
import hmac
import os
import secrets as random

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

NONCE = 12


class SecretMismatch(Exception):
    """Stored data cannot be decrypted: the configured secret is not the one that it was written with."""


def encrypt(key: bytes, data: bytes, context: bytes) -> bytes:
    """AES-256-GCM with a random nonce in front; `context` must be the same to decrypt."""
    nonce = os.urandom(NONCE)
    return nonce + AESGCM(key).encrypt(nonce, data, context)


def decrypt(key: bytes, data: bytes, context: bytes) -> bytes:
    try:
        return AESGCM(key).decrypt(data[:NONCE], data[NONCE:], context)
    except (InvalidTag, ValueError):  # the latter for what is too short to be sealed
        raise SecretMismatch(
            "stored data does not decrypt: is TESTHIDE_SECRET_KEY the one it was written with?"
        ) from None


def token_hash(token: str) -> bytes:
    """SHA-256 of a token of ours. Tokens carry 192 random bits, so a slow hash would add nothing."""
    return hashlib.sha256(token.encode()).digest()


def new_token(prefix: str) -> str:
    return prefix + random.token_urlsafe(24)


class Secrets:
    def __init__(self, master: bytes) -> None:
        if len(master) != 32:
            raise ValueError("the master secret must be 32 bytes")
        self._box = self._derive(master, "sealed values")
        self._wrap = self._derive(master, "data keys")
        self._claims = self._derive(master, "claims")
        self.session_key = self._derive(master, "sessions")
        self.responses_key = self._derive(master, "first answers")

    @staticmethod
    def _derive(master: bytes, purpose: str) -> bytes:
        return HKDF(hashes.SHA256(), 32, salt=None, info=f"testhide {purpose}".encode()).derive(master)

    def seal(self, value: str) -> bytes:
        return encrypt(self._box, value.encode(), b"sealed")

    def unseal(self, sealed: bytes) -> str:
        return decrypt(self._box, sealed, b"sealed").decode()

    def claim(self, kind: str, value: str) -> str:
        """The claim name of a value, compared without regard to case: `node-name` and `agent-05`."""
        mac = hmac.new(self._claims, f"{kind}\0{value.casefold()}".encode(), hashlib.sha256)
        return f"{kind}-{mac.hexdigest()[:32]}"

    def new_data_key(self, name: str, parent: bytes | None = None) -> tuple[bytes, bytes]:
        """A fresh data key and its wrapped form for the table. `parent` is the key above it, None for the topmost."""
        key = os.urandom(32)
        return key, encrypt(parent or self._wrap, key, name.encode())

    def unwrap(self, name: str, wrapped: bytes, parent: bytes | None = None) -> bytes:
        return decrypt(parent or self._wrap, wrapped, name.encode())
