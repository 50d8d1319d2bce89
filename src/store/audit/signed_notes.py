"""Signed notes and checkpoints, in the formats of C2SP: c2sp.org/signed-note and c2sp.org/tlog-checkpoint.

A note is text, a blank line and a line for each Ed25519 signature. A verifier key (`vkey`) is one line of text with the
signer's name and public key. The text of a checkpoint contains the name of the log, the number of leaves and the root
of the tree. It also contains the hash of the previous checkpoint's note, and the time.
"""

import base64
import binascii
import hashlib
from collections.abc import Iterable
from dataclasses import dataclass
from datetime import datetime

from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey, Ed25519PublicKey

ED25519 = b"\x01"
DASH = "\N{EM DASH} "
MAX_NOTE = 100_000
"""Largest number of characters of a note that is accepted. This server signs only shorter notes."""


class BadNote(Exception):
    """The text is no note, checkpoint or verifier key, or no trusted key has signed it."""


@dataclass(frozen=True)
class VerifierKey:
    name: str
    public: bytes

    @classmethod
    def parse(cls, vkey: str) -> "VerifierKey":
        """Returns the verifier key that the line `vkey` contains. Raises BadNote if the line is no verifier key."""
        name, _, rest = vkey.strip().partition("+")
        key_id, _, encoded = rest.partition("+")
        key = _unbase64(encoded)
        if not is_key_name(name) or key[:1] != ED25519 or len(key) != 33:
            raise BadNote(f"{vkey.strip()[:100]!r} is no verifier key: expected NAME+ID+KEY with an Ed25519 key")
        made = cls(name, key[1:])
        if key_id != made.key_id.hex():
            raise BadNote(f"the verifier key of {name} has the id {key_id}, but its key makes {made.key_id.hex()}")
        return made

    @property
    def key_id(self) -> bytes:
        return hashlib.sha256(self.name.encode() + b"\n" + ED25519 + self.public).digest()[:4]

    def __str__(self) -> str:
        return f"{self.name}+{self.key_id.hex()}+{base64.b64encode(ED25519 + self.public).decode()}"

    def verifies(self, text: str, signature: bytes) -> bool:
        try:
            Ed25519PublicKey.from_public_bytes(self.public).verify(signature, text.encode())
        except InvalidSignature:
            return False
        return True


@dataclass(frozen=True)
class SigningKey:
    name: str
    private: bytes
    """The 32-byte seed of the Ed25519 key."""

    @classmethod
    def new(cls, name: str) -> "SigningKey":
        assert is_key_name(name)
        return cls(name, Ed25519PrivateKey.generate().private_bytes_raw())

    @property
    def verifier(self) -> VerifierKey:
        return VerifierKey(self.name, self._key.public_key().public_bytes_raw())

    def sign(self, text: str) -> str:
        """Returns a note: the text, which must end in a newline, with its signature."""
        assert text.endswith("\n")
        signature = self.verifier.key_id + self._key.sign(text.encode())
        return f"{text}\n{DASH}{self.name} {base64.b64encode(signature).decode()}\n"

    @property
    def _key(self) -> Ed25519PrivateKey:
        return Ed25519PrivateKey.from_private_bytes(self.private)

    def __repr__(self) -> str:
        return f"SigningKey({self.verifier})"


def is_key_name(name: str) -> bool:
    return bool(name) and name.isprintable() and "+" not in name and not any(char.isspace() for char in name)


def open_note(note: str, keys: Iterable[VerifierKey]) -> str:
    """Returns the text of a note if one of these keys has signed it. Otherwise raises BadNote."""
    text, signatures = split_note(note)
    known = {(key.name, key.key_id): key for key in keys}
    by_known = [
        (known[name, signature[:4]], signature) for name, signature in signatures if (name, signature[:4]) in known
    ]
    if any(key.verifies(text, signature[4:]) for key, signature in by_known):
        return text
    by = ", ".join(f"{name} (key {signature[:4].hex()})" for name, signature in signatures)
    if by_known:
        raise BadNote(f"the text does not fit the signature by {by}: one of them was changed after it was signed")
    raise BadNote(f"the signature by {by} is not one of the keys {', '.join(map(str, known.values())) or '(none)'}")


def split_note(note: str) -> tuple[str, list[tuple[str, bytes]]]:
    """Returns a note's text and signatures, without verifying the signatures. Each signature is (signer's name, bytes):
    the bytes are 4 bytes of key id, then the signature itself. Raises BadNote if `note` is no signed note.
    """
    text, blank, lines = note[:MAX_NOTE].rpartition("\n\n")
    if not blank or not lines.endswith("\n") or len(note) > MAX_NOTE:
        raise BadNote("this is no signed note: expected text, a blank line and signature lines")
    signatures: list[tuple[str, bytes]] = []
    for line in lines[:-1].split("\n"):
        name, _, encoded = line.removeprefix(DASH).partition(" ")
        signature = _unbase64(encoded)
        if not line.startswith(DASH) or not is_key_name(name) or len(signature) < 5:
            raise BadNote(f"{line[:100]!r} is no signature line of a note")
        signatures.append((name, signature))
    return text + "\n", signatures


@dataclass(frozen=True)
class Checkpoint:
    """The content of a checkpoint: the name, the size and the root of the audit tree at a moment."""

    origin: str
    size: int
    root: bytes
    time: datetime
    previous: bytes | None = None
    """SHA-256 of the previous checkpoint's note; None for the first checkpoint."""

    @property
    def text(self) -> str:
        lines = [self.origin, str(self.size), base64.b64encode(self.root).decode()]
        if self.previous is not None:
            lines.append(f"previous {base64.b64encode(self.previous).decode()}")
        lines.append(f"time {self.time.isoformat().replace('+00:00', 'Z')}")
        return "".join(f"{line}\n" for line in lines)

    @classmethod
    def parse(cls, text: str) -> "Checkpoint":
        """Parses the text of a note as a checkpoint. Raises BadNote if the text is no checkpoint."""
        origin, *lines = text.removesuffix("\n").split("\n")
        extensions = {name: value for name, _, value in (line.partition(" ") for line in lines[2:])}
        try:
            size, root = lines[0], _unbase64(lines[1])
            previous = _unbase64(extensions["previous"]) if "previous" in extensions else None
            time = datetime.fromisoformat(extensions["time"])
        except (LookupError, ValueError):
            raise BadNote("this note is no checkpoint of an audit log") from None
        if not origin or not (size.isascii() and size.isdigit()) or len(size) > 18 or len(root) != 32:
            raise BadNote("this note is no checkpoint of an audit log")
        return cls(origin, int(size), root, time, previous)


def note_hash(note: str) -> bytes:
    return hashlib.sha256(note.encode()).digest()


def _unbase64(text: str) -> bytes:
    try:
        found = base64.b64decode(text, validate=True)
    except (binascii.Error, ValueError):
        return b""
    # The spare bits of the last character must be zero, so that bytes have only one spelling.
    return found if base64.b64encode(found).decode() == text else b""
