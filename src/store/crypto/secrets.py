"""Keys and encryption. Everything is derived from one master secret of 32 bytes, the server's secret key.

- `seal` and `unseal` encrypt and decrypt values that the server needs in clear again, such as webhook secrets.
- Data keys are random. There is one for each project, job, build, user and so on. A data key is stored encrypted
  (wrapped) with the key above it; a topmost data key is wrapped with a key derived from the master secret. Destroying a
  data key erases everything that is encrypted with it or with the keys below it.
- `claim` turns a value that must be unique into the name of its claim.
- `session_key` returns the key that signs session tokens. A new one is used each week.
- `responses_key` encrypts stored responses (`store.tables.idempotent_responses`).
- `rows_key` makes the MACs of the log's rows (`store.log.row_macs`).
- `token_hash` returns the stored form of an API token or agent token.
- `sign` appends a MAC to a text that is given away and comes back, such as the id of a sign-in at an identity provider.
- `link_token` makes the token of a link to set a password. No form of this token is stored.
"""

import hashlib
import hmac
import os
import secrets as random

from cryptography.exceptions import InvalidTag
from cryptography.hazmat.primitives import hashes
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from cryptography.hazmat.primitives.kdf.hkdf import HKDF

NONCE_BYTES = 12


class SecretMismatch(Exception):
    """Stored data cannot be decrypted: the server's secret key is not the one with which the data was encrypted."""


def encrypt(key: bytes, data: bytes, context: bytes) -> bytes:
    """Encrypts `data` with AES-256-GCM. Returns a random nonce followed by the ciphertext. Decrypting needs the same
    `context`.
    """
    nonce = os.urandom(NONCE_BYTES)
    return nonce + AESGCM(key).encrypt(nonce, data, context)


def decrypt(key: bytes, data: bytes, context: bytes) -> bytes:
    try:
        return AESGCM(key).decrypt(data[:NONCE_BYTES], data[NONCE_BYTES:], context)
    except (InvalidTag, ValueError):  # ValueError for data that is too short
        raise SecretMismatch(
            "stored data does not decrypt: is TESTHIDE_SECRET_KEY the one it was written with?"
        ) from None


def token_hash(token: str) -> bytes:
    """Returns the SHA-256 of a token. A token has 192 random bits and cannot be guessed, so it needs no slow hash."""
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
        self._links = self._derive(master, "password links")
        self._signing = self._derive(master, "signed texts")
        self._session_keys = self._derive(master, "sessions")
        self.responses_key = self._derive(master, "first answers")
        self.rows_key = self._derive(master, "rows of the log")

    @staticmethod
    def _derive(master: bytes, purpose: str) -> bytes:
        return HKDF(hashes.SHA256(), 32, salt=None, info=f"testhide {purpose}".encode()).derive(master)

    def seal(self, value: str) -> bytes:
        return encrypt(self._box, value.encode(), b"sealed")

    def unseal(self, sealed: bytes) -> str:
        return decrypt(self._box, sealed, b"sealed").decode()

    def claim(self, kind: str, value: str) -> str:
        """Returns the name of the claim of a value. Example: kind `node-name`, value `agent-05`. Upper and lower case
        are equal.
        """
        mac = hmac.new(self._claims, f"{kind}\0{value.casefold()}".encode(), hashlib.sha256)
        return f"{kind}-{mac.hexdigest()[:32]}"

    def session_key(self, key_id: str | None) -> bytes:
        """Returns the key for the session tokens that name `key_id` as their key; None for those that name none."""
        if key_id is None:
            return self._session_keys
        return hmac.new(self._session_keys, key_id.encode(), hashlib.sha256).digest()

    def sign(self, purpose: str, text: str) -> str:
        """Returns the text with a proof that the server made it for this purpose."""
        mac = hmac.new(self._signing, f"{purpose}\0{text}".encode(), hashlib.sha256)
        return f"{text}.{mac.hexdigest()[:32]}"

    def read_signed(self, purpose: str, signed: str) -> str | None:
        """Returns the text that `sign` was given; None if the server did not make it for this purpose."""
        text = signed.rpartition(".")[0]
        return text if hmac.compare_digest(self.sign(purpose, text).encode(), signed.encode()) else None

    def link_token(self, user_id: int, link_id: str) -> str:
        """Returns the token of a link to set a password. It contains both ids and a proof that this server made it."""
        mac = hmac.new(self._links, f"{user_id}\0{link_id}".encode(), hashlib.sha256)
        return f"{user_id}.{link_id}.{mac.hexdigest()}"

    def read_link_token(self, token: str) -> tuple[int, str] | None:
        """Returns (user id, link id) from the token of a link. None for a token that this server did not make."""
        user_id, _, rest = token.partition(".")
        link_id = rest.partition(".")[0]
        if not (user_id.isascii() and user_id.isdigit() and len(user_id) < 20):
            return None
        made = self.link_token(int(user_id), link_id)
        return (int(user_id), link_id) if hmac.compare_digest(made.encode(), token.encode()) else None

    def new_data_key(self, name: str, parent: bytes | None = None) -> tuple[bytes, bytes]:
        """Returns a new random data key, in clear and wrapped. `parent` is the key that wraps it; None for a topmost
        key.
        """
        key = os.urandom(32)
        return key, encrypt(parent or self._wrap, key, name.encode())

    def unwrap(self, name: str, wrapped: bytes, parent: bytes | None = None) -> bytes:
        return decrypt(parent or self._wrap, wrapped, name.encode())
