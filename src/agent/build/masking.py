"""Secrets never leave the machine: their bytes become `***` in log lines and reports."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from typing import BinaryIO
from urllib.parse import unquote, urlsplit
from xml.sax.saxutils import escape

SHORTEST = 4  # shorter values are too common in ordinary text to be masked
_CHUNK = 1 << 20
_URL_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+@")


class Masker:
    """Works on bytes, since a log is bytes and a report may be in any of the encodings that tools write."""

    def __init__(self, values: Iterable[str]) -> None:
        forms: dict[bytes, bytes] = {}
        for value in values:
            for part in {value, *value.splitlines()}:
                text = part.strip()
                if len(text) >= SHORTEST:
                    forms.update(_forms(text))
        # Longest first: a secret that begins like another is masked whole.
        ordered = sorted(forms, key=len, reverse=True)
        self._masks = forms
        self._longest = len(ordered[0]) if ordered else 0
        self._pattern = re.compile(b"|".join(re.escape(form) for form in ordered)) if ordered else None

    @property
    def overlap(self) -> int:
        """Bytes beyond a cut that `head` must see to find every secret that crosses it."""
        return max(self._longest - 1, 0)

    def mask(self, data: bytes) -> bytes:
        return self._pattern.sub(self._replacement, data) if self._pattern else data

    def mask_text(self, text: str) -> str:
        return self.mask(text.encode("utf-8", "replace")).decode("utf-8", "replace")

    def head(self, data: bytes, cut: int) -> tuple[bytes, bytes]:
        """Masked data up to `cut`, or to the end of a secret that lies across it, and what remains."""
        if self._pattern:
            for match in self._pattern.finditer(data):
                if match.start() >= cut:
                    break
                cut = max(cut, match.end())
        return self.mask(data[:cut]), data[cut:]

    def stream(self, source: BinaryIO) -> Iterator[bytes]:
        rest = b""
        while True:
            chunk = source.read(_CHUNK)
            if not chunk:
                break
            masked, rest = self.head(rest + chunk, max(len(rest) + len(chunk) - self.overlap, 0))
            yield masked
        yield self.mask(rest)

    def __bool__(self) -> bool:
        return self._pattern is not None

    def _replacement(self, match: re.Match[bytes]) -> bytes:
        return self._masks[match.group()]


def _forms(text: str) -> Iterator[tuple[bytes, bytes]]:
    for written in {
        text,
        escape(text),
        escape(text, {'"': "&quot;"}),
        escape(text, {'"': "&quot;", "'": "&apos;"}),
    }:
        for encoding in ("utf-8", "utf-16-le", "utf-16-be"):
            yield written.encode(encoding, "replace"), "***".encode(encoding)


def without_credentials(url: str) -> str:
    return _URL_CREDENTIALS.sub("***@", url)


def credentials(url: str) -> list[str]:
    """The secret part of a URL's user information: its password, or a token in place of a name."""
    parts = urlsplit(url) if "://" in url else None
    if parts is None or parts.scheme == "ssh":
        return []
    secret = parts.password or parts.username
    return [secret, unquote(secret)] if secret else []
