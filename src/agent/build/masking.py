"""Masks secrets before they leave the machine: their bytes become `***` in log lines and reports."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from urllib.parse import unquote, urlsplit
from xml.sax.saxutils import escape

SHORTEST_SECRET = 4  # characters; shorter values are too common in ordinary text to be masked
_URL_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+@")


class Masker:
    """Replaces secrets by `***`. Works on bytes: a log may have no valid encoding, and reports have different ones."""

    def __init__(self, secrets: Iterable[str]) -> None:
        masks: dict[bytes, bytes] = {}
        for secret in secrets:
            for part in {secret, *secret.splitlines()}:
                text = part.strip()
                if len(text) >= SHORTEST_SECRET:
                    masks.update(_encode_forms(text))
        # Longest first: a secret that begins like another is masked whole.
        ordered = sorted(masks, key=len, reverse=True)
        self._masks = masks
        self._longest = len(ordered[0]) if ordered else 0
        self._pattern = re.compile(b"|".join(re.escape(form) for form in ordered)) if ordered else None

    @property
    def overlap(self) -> int:
        """Number of bytes after a cut that `mask_head` needs, to find every secret that crosses the cut."""
        return max(self._longest - 1, 0)

    def mask(self, data: bytes) -> bytes:
        return self._pattern.sub(self._replacement, data) if self._pattern else data

    def mask_text(self, text: str) -> str:
        return self.mask(text.encode("utf-8", "replace")).decode("utf-8", "replace")

    def mask_head(self, data: bytes, cut: int) -> tuple[bytes, bytes]:
        """Return the masked data before `cut` and the unmasked rest. If a secret crosses the cut, the cut moves to the
        end of the secret.
        """
        if self._pattern:
            for match in self._pattern.finditer(data):
                if match.start() >= cut:
                    break
                cut = max(cut, match.end())
        return self.mask(data[:cut]), data[cut:]

    def mask_chunks(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """Yield the masked content of `chunks`, including secrets that cross the border of two chunks."""
        rest = b""
        for chunk in chunks:
            masked, rest = self.mask_head(rest + chunk, max(len(rest) + len(chunk) - self.overlap, 0))
            yield masked
        yield self.mask(rest)

    def __bool__(self) -> bool:
        """Return whether there is anything to mask."""
        return self._pattern is not None

    def _replacement(self, match: re.Match[bytes]) -> bytes:
        return self._masks[match.group()]


def _encode_forms(text: str) -> Iterator[tuple[bytes, bytes]]:
    """Yield each encoded form of the text (plain or escaped for XML, in UTF-8 or UTF-16), and its mask."""
    quotes = {'"': "&quot;", "'": "&apos;"}
    for written in {text, escape(text), escape(text, {'"': "&quot;"}), escape(text, quotes)}:
        for encoding in ("utf-8", "utf-16-le", "utf-16-be"):
            yield written.encode(encoding, "replace"), "***".encode(encoding)


def hide_credentials(text: str) -> str:
    """Replace user name and password in every URL of the text by `***`."""
    return _URL_CREDENTIALS.sub("***@", text)


def find_url_secrets(url: str) -> list[str]:
    """Return the password of a URL, as written and percent-decoded. Without a password the user name is taken for a
    token. Return an empty list for ssh and for a URL without credentials.
    """
    parts = urlsplit(url) if "://" in url else None
    if parts is None or parts.scheme == "ssh":
        return []
    secret = parts.password or parts.username
    return [secret, unquote(secret)] if secret else []
