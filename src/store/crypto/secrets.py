"""Encrypts, signs and hashes with keys that are derived from root keys. A root key is 32 random bytes, stored encrypted
(wrapped) with the server's secret key (`store.key_ring`).

- `seal` and `unseal` encrypt and decrypt values that the server needs in clear again, such as webhook secrets.
- `new_data_key` makes a random data key for a project, job, build, user and so on. A data key is stored wrapped with
  the data key above it. A topmost data key has none above it: it is wrapped with a key that is derived from a root key.
  Destroying a data key erases everything that is encrypted with it or with the keys below it.
- `claim` turns a value that must be unique into the name of its claim.
- `session_key` returns the key that signs session tokens. Each week has another key.
- `seal_response` encrypts stored responses (`store.tables.idempotent_responses`).
- `rows_key` makes the MACs of the log's rows (`store.log.row_macs`).
- `token_hash` returns the stored form of an API token or agent token.
- `sign` adds a MAC to a text that the server gives away and gets back, such as the id of a sign-in at an identity
  provider.
- `link_token` makes the token of a link to set a password. No form of this token is stored.

A rotation of the secret key adds a root key. The newest root key seals and signs. Values that older root keys sealed
can still be opened, and `reseal` seals them with the newest one.

Encrypted data begins with the id of its root key, except data that root key 0 encrypted. Root key 0 exists only if a
release without root keys began the log: it is the secret key of that time.
"""

import hashlib
import hmac
import os
import secrets as random
from collections.abc import Iterable, Sequence
from datetime import datetime, timedelta

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF
from msgspec import Struct

from store.clock import utcnow

WRONG_KEY = "stored data does not decrypt: is TESTHIDE_SECRET_KEY the one it was written with?"
# Purposes of derived keys. They are stored data.
VALUES, RESPONSES, DATA_KEYS, ROWS, SESSIONS = (
    "sealed values",
    "first answers",
    "data keys",
    "rows of the log",
    "sessions",
)
KEY_BYTES = 32
NONCE_BYTES = 12
MARK = b"root"
"""Prefix of encrypted data, before the id of its root key in 2 bytes. Data that root key 0 encrypted has neither."""
HEAD_BYTES = len(MARK) + 2
LINK_LIFETIME = timedelta(days=7)
"""Longest time for which a link to set a password is valid. Links that a root key signed are accepted for this time
after the root key was retired.
"""
SIGNED_LIFETIME = timedelta(hours=1)
"""Time for which signed texts are still accepted after the root key that signed them was retired."""


class SecretMismatch(Exception):
    """Stored data cannot be decrypted: the server's secret key is not the one with which the data was encrypted."""


class RingDamaged(SecretMismatch):
    """Root keys are missing in the database, or damaged. The message says which."""


class RootKey(Struct, frozen=True, kw_only=True):
    id: int
    key: bytes
    is_in_use: bool = True
    """False for a new root key until all processes have loaded it. Until then no process may seal with it."""
    retired_at: datetime | None = None
    """When a newer root key came into use; None for the newest."""
    last_position: int | None = None
    """Last position of the log at which a row may have a MAC by this root key; None for no limit."""
    is_leaked: bool = False
    """True if retiring this key also ended the sessions and links that it had signed."""

    def __repr__(self) -> str:
        return f"RootKey(id={self.id})"

    @property
    def head(self) -> bytes:
        return MARK + self.id.to_bytes(HEAD_BYTES - len(MARK)) if self.id else b""

    def accepts_signatures(self, lifetime: timedelta) -> bool:
        """Returns whether signatures by this root key are accepted: until the key is retired, and for `lifetime`
        afterwards. `lifetime` is the time for which a signature of the kind in question is valid.

        Signatures by a leaked key or by root key 0 are not accepted after the key was retired.
        """
        if self.retired_at is None:
            return True
        # The root key 0 is a secret key of the past, which must open nothing after its rotation.
        return not self.is_leaked and self.id != 0 and utcnow() < self.retired_at + lifetime


def encrypt(cipher: AESGCM, data: bytes, context: bytes) -> bytes:
    """Encrypts `data` with AES-256-GCM. Returns a random nonce followed by the ciphertext. Decrypting needs the same
    `context`.
    """
    nonce = os.urandom(NONCE_BYTES)
    return nonce + cipher.encrypt(nonce, data, context)


def decrypt(cipher: AESGCM, data: bytes, context: bytes) -> bytes:
    try:
        return cipher.decrypt(data[:NONCE_BYTES], data[NONCE_BYTES:], context)
    except (InvalidTag, ValueError):  # ValueError for data that is too short
        raise SecretMismatch(WRONG_KEY) from None


def token_hash(token: str) -> bytes:
    """Returns the SHA-256 of a token. The hash need not be slow, since nobody can guess a token: it has 192 random
    bits.
    """
    return hashlib.sha256(token.encode()).digest()


def new_token(prefix: str) -> str:
    return prefix + random.token_urlsafe(24)


def derive(key: bytes, purpose: str) -> bytes:
    return HKDF(hashes.SHA256(), KEY_BYTES, salt=None, info=f"testhide {purpose}".encode()).derive(key)


class Secrets:
    """The root keys of a server, and what is derived from them. The root keys change while the process runs when the
    secret key is rotated.
    """

    def __init__(self, roots: Sequence[RootKey]) -> None:
        self._derived: dict[tuple[int, str], bytes] = {}
        self._ciphers: dict[tuple[int, str], AESGCM] = {}
        self.replace(roots)

    @classmethod
    def without_ring(cls, secret_key: bytes) -> "Secrets":
        """Returns the secrets for a database that has no root keys, since an older release wrote it or since its tables
        are not made yet. The secret key then is root key 0.
        """
        return cls([RootKey(id=0, key=secret_key)])

    def replace(self, roots: Iterable[RootKey]) -> None:
        """Replaces the root keys by their newer states. Keeps the keys that were derived from them, since the bytes of
        a root key never change.
        """
        self._roots = {root.id: root for root in sorted(roots, key=lambda root: root.id)}
        if any(len(root.key) != KEY_BYTES for root in self._roots.values()):
            raise ValueError(f"a root key must be {KEY_BYTES} bytes")
        self.newest = max(root.id for root in self._roots.values() if root.is_in_use)
        """Id of the root key that seals and signs."""

    @property
    def roots(self) -> dict[int, RootKey]:
        return dict(self._roots)

    @property
    def has_older_roots(self) -> bool:
        return min(self._roots) != self.newest

    def _derive(self, root_id: int, purpose: str) -> bytes:
        if (key := self._derived.get((root_id, purpose))) is None:
            key = self._derived[root_id, purpose] = derive(self._roots[root_id].key, purpose)
        return key

    def _cipher(self, root_id: int, purpose: str) -> AESGCM:
        if (cipher := self._ciphers.get((root_id, purpose))) is None:
            cipher = self._ciphers[root_id, purpose] = AESGCM(self._derive(root_id, purpose))
        return cipher

    def _encrypt(self, purpose: str, data: bytes, context: bytes) -> bytes:
        return self._roots[self.newest].head + encrypt(self._cipher(self.newest, purpose), data, context)

    def _decrypt(self, purpose: str, data: bytes, context: bytes) -> bytes:
        return self._open(purpose, data, context)[1]

    def _open(self, purpose: str, data: bytes, context: bytes) -> tuple[bytes, bytes]:
        """Decrypts `data`. Returns the nonce and the plain text. Raises SecretMismatch if `data` does not decrypt."""
        root_id = self.root_of(data)
        if root_id and root_id in self._roots:
            body = data[HEAD_BYTES:]
            try:
                return body[:NONCE_BYTES], decrypt(self._cipher(root_id, purpose), body, context)
            except SecretMismatch:
                if 0 not in self._roots:
                    raise
        if 0 not in self._roots:
            raise SecretMismatch(WRONG_KEY)
        # One in four thousand million nonces begins like MARK, so this one may be of the root key 0 all the same.
        return data[:NONCE_BYTES], decrypt(self._cipher(0, purpose), data, context)

    def _move(self, purpose: str, data: bytes, context: bytes) -> bytes:
        """Decrypts `data`, and returns it encrypted with the newest root key. The nonce stays the same, so equal
        arguments give equal results.
        """
        if self.root_of(data) == self.newest:
            return data
        nonce, plain = self._open(purpose, data, context)
        ciphertext = self._cipher(self.newest, purpose).encrypt(nonce, plain, context)
        return self._roots[self.newest].head + nonce + ciphertext

    @staticmethod
    def root_of(data: bytes) -> int:
        """Returns the id of the root key that encrypted `data`, read from the beginning of `data`."""
        return int.from_bytes(data[len(MARK) : HEAD_BYTES]) if data.startswith(MARK) else 0

    def seal(self, value: str) -> bytes:
        return self._encrypt(VALUES, value.encode(), b"sealed")

    def unseal(self, sealed: bytes) -> str:
        return self._decrypt(VALUES, sealed, b"sealed").decode()

    def reseal(self, sealed: bytes) -> bytes:
        """Returns the value in `sealed`, sealed anew with the newest root key. Equal arguments give equal results."""
        return self._move(VALUES, sealed, b"sealed")

    def seal_response(self, scope: bytes, response: bytes) -> bytes:
        return self._encrypt(RESPONSES, response, scope)

    def unseal_response(self, scope: bytes, sealed: bytes) -> bytes:
        return self._decrypt(RESPONSES, sealed, scope)

    def reseal_response(self, scope: bytes, sealed: bytes) -> bytes:
        return self._move(RESPONSES, sealed, scope)

    def claim(self, kind: str, value: str) -> str:
        """Returns the name of a claim: the kind and a keyed hash of the value, which does not show the value. Example:
        kind `node-name`, value `agent-05`. Values that differ only in case get the same name.
        """
        # Names are for ever: the oldest root key makes them.
        mac = hmac.new(self._derive(min(self._roots), "claims"), f"{kind}\0{value.casefold()}".encode(), hashlib.sha256)
        return f"{kind}-{mac.hexdigest()[:32]}"

    @property
    def rows_key(self) -> bytes:
        """The key that makes the MACs of new rows."""
        return self._derive(self.newest, ROWS)

    def rows_keys(self, position: int) -> list[bytes]:
        """Returns the keys that may have made the MAC of the row at this position."""
        return [
            self._derive(root.id, ROWS)
            for root in reversed(self._roots.values())
            if root.last_position is None or position <= root.last_position
        ]

    def session_key(self, period: str) -> tuple[str, bytes]:
        """Returns (id, key) of the key that signs the session tokens of `period`, which is the number of a week."""
        return f"{self.newest}.{period}" if self.newest else period, self._session_key(self.newest, period)

    def _session_key(self, root_id: int, period: str) -> bytes:
        return hmac.digest(self._derive(root_id, SESSIONS), period.encode(), "sha256")

    def find_session_key(self, key_id: str | None, lifetime: timedelta) -> bytes | None:
        """Returns the key that signed the session tokens with the key id `key_id`. Pass None for tokens of an older
        release, which have no key id.

        Returns None if the key id is unknown, or if signatures by the session key's root key are no longer accepted.
        They are accepted for at most `lifetime` after the root key was retired.
        """
        root_id, _, period = (key_id or "").rpartition(".")
        # Compared as text and not parsed as a number, since anybody may send any key id.
        named = (root for root in self._roots.values() if root_id == (str(root.id) if root.id else ""))
        root = next(named, None)
        if root is None or not root.accepts_signatures(lifetime):
            return None
        return self._derive(root.id, SESSIONS) if key_id is None else self._session_key(root.id, period)

    def sign(self, purpose: str, text: str) -> str:
        """Returns the text with a MAC, which proves that this server made the text for this purpose."""
        return self._sign(self.newest, purpose, text)

    def _sign(self, root_id: int, purpose: str, text: str) -> str:
        mac = hmac.new(self._derive(root_id, "signed texts"), f"{purpose}\0{text}".encode(), hashlib.sha256)
        return f"{text}.{mac.hexdigest()[:32]}"

    def read_signed(self, purpose: str, signed: str) -> str | None:
        """Returns the text in the result of `sign`. Returns None if this server did not make `signed` for this purpose,
        or if the root key that signed it was retired more than SIGNED_LIFETIME ago.
        """
        text = signed.rpartition(".")[0]
        made = [self._sign(root.id, purpose, text) for root in self._signing(SIGNED_LIFETIME)]
        return text if any(hmac.compare_digest(one.encode(), signed.encode()) for one in made) else None

    def _signing(self, lifetime: timedelta) -> list[RootKey]:
        return [root for root in self._roots.values() if root.accepts_signatures(lifetime)]

    def link_token(self, user_id: int, link_id: str) -> str:
        """Returns the token of a link to set a password: both ids, and a proof that this server made the token."""
        return self._link_token(self.newest, user_id, link_id)

    def _link_token(self, root_id: int, user_id: int, link_id: str) -> str:
        mac = hmac.new(self._derive(root_id, "password links"), f"{user_id}\0{link_id}".encode(), hashlib.sha256)
        return f"{user_id}.{link_id}.{mac.hexdigest()}"

    def read_link_token(self, token: str) -> tuple[int, str] | None:
        """Returns (user id, link id) from the token of a link. Returns None if this server did not make the token, or
        signed it with a root key that was retired more than LINK_LIFETIME ago.
        """
        user_id, _, rest = token.partition(".")
        link_id = rest.partition(".")[0]
        if not (user_id.isascii() and user_id.isdigit() and len(user_id) < 20):
            return None
        made = [self._link_token(root.id, int(user_id), link_id) for root in self._signing(LINK_LIFETIME)]
        is_ours = any(hmac.compare_digest(one.encode(), token.encode()) for one in made)
        return (int(user_id), link_id) if is_ours else None

    def new_data_key(self, name: str, parent: AESGCM | None = None) -> tuple[AESGCM, bytes]:
        """Returns the cipher of a new random data key, and this key wrapped. `parent` is the cipher of the key that
        wraps the data key; None for a topmost data key, which a root key wraps.
        """
        key = os.urandom(KEY_BYTES)
        if parent is None:
            return AESGCM(key), self._encrypt(DATA_KEYS, key, name.encode())
        return AESGCM(key), encrypt(parent, key, name.encode())

    def unwrap(self, name: str, wrapped: bytes, parent: AESGCM | None = None) -> AESGCM:
        """Returns the cipher of a wrapped data key. Raises SecretMismatch if the key does not decrypt."""
        if parent is None:
            return AESGCM(self._decrypt(DATA_KEYS, wrapped, name.encode()))
        return AESGCM(decrypt(parent, wrapped, name.encode()))

    def rewrap(self, name: str, wrapped: bytes) -> bytes:
        """Returns a topmost data key, wrapped with the newest root key instead of an older one."""
        return self._move(DATA_KEYS, wrapped, name.encode())
