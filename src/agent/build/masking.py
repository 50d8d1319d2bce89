"""Masks secrets before they leave the machine: their bytes become `***` in log lines and reports."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from urllib.parse import unquote, urlsplit

from agent.build.encoded_forms import ENCODINGS, find_marks, list_texts, strip_marks

SHORTEST_SECRET = 4  # characters; shorter values are too common in ordinary text to be masked
_URL_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+@")


class Masker:
    """Replaces secrets by `***`, in every form in which programs write them (see `encoded_forms`).

    Works on bytes: a log may have no valid encoding, and reports have different ones.
    """

    def __init__(self, secrets: Iterable[str]) -> None:
        parts = {part.strip() for secret in secrets for part in (secret, *secret.splitlines())}
        texts = {text for part in parts if len(part) >= SHORTEST_SECRET for text in list_texts(part)}
        # Longest first: a secret that begins like another is masked whole.
        self._texts = sorted(texts, key=lambda found: (-len(found.text), found.text))
        self._patterns: dict[tuple[int, ...], re.Pattern[bytes]] = {}
        """Patterns that were needed so far, by the indexes of their texts and the number of encodings."""
        self.overlap = max((text.max_bytes for text in self._texts), default=0)
        """Number of bytes after a cut that `mask_head` needs, to find every secret that crosses the cut."""

    def mask(self, data: bytes) -> bytes:
        return replace_matches(self.find_pattern(data), data)

    def mask_text(self, text: str) -> str:
        return self.mask(text.encode("utf-8", "replace")).decode("utf-8", "replace")

    def mask_head(self, data: bytes, cut: int) -> tuple[bytes, bytes]:
        """Return the part of the data before `cut`, masked, and the rest, unmasked. If a secret lies across the cut,
        the cut moves to the end of that secret.
        """
        pattern = self.find_pattern(data)
        for match in pattern.finditer(data) if pattern else ():
            if match.start() >= cut:
                break
            cut = max(cut, match.end())
        return replace_matches(pattern, data[:cut]), data[cut:]

    def mask_chunks(self, chunks: Iterable[bytes]) -> Iterator[bytes]:
        """Yield the content of `chunks`, masked. Secrets that lie across the border of two chunks are masked too."""
        rest = b""
        for chunk in chunks:
            masked, rest = self.mask_head(rest + chunk, max(len(rest) + len(chunk) - self.overlap, 0))
            yield masked
        yield self.mask(rest)

    def __bool__(self) -> bool:
        """Return whether there is anything to mask."""
        return bool(self._texts)

    def find_pattern(self, data: bytes) -> re.Pattern[bytes] | None:
        """Return a pattern for those secrets that may be in the data or in a part of it; None if no secret may be
        there.

        To find these secrets, it searches only for an anchor of each, a part without special characters. This is much
        faster than a search for patterns, and excludes nearly all secrets.
        """
        if not self._texts:
            return None
        stripped = strip_marks(data)
        found = tuple(index for index, text in enumerate(self._texts) if text.anchor in stripped)
        if not found:
            return None
        encodings = ENCODINGS if b"\0" in data else ENCODINGS[:1]
        pattern = self._patterns.get((*found, -len(encodings)))
        if pattern is None:
            groups = (b"|".join(self._texts[index].pattern(encoding) for index in found) for encoding in encodings)
            pattern = re.compile(b"|".join(b"(%b)" % group for group in groups))
            self._patterns[(*found, -len(encodings))] = pattern
        return pattern


def replace_matches(pattern: re.Pattern[bytes] | None, data: bytes) -> bytes:
    """Return the data with every match of the pattern masked. `pattern` is what `Masker.find_pattern` returned for the
    data.
    """
    return pattern.sub(_replacement, data) if pattern else data


def _replacement(match: re.Match[bytes]) -> bytes:
    assert match.lastindex is not None  # every encoding is a group
    encoding = ENCODINGS[match.lastindex - 1]
    return "***".encode(encoding) + find_marks(match.group(), encoding)


def hide_credentials(text: str) -> str:
    """Replace user name and password in every URL of the text by `***`."""
    return _URL_CREDENTIALS.sub("***@", text)


def find_url_secrets(url: str) -> list[str]:
    """Return the secrets in a URL: its password, as written and percent-decoded. If the URL has a user name but no
    password, the user name counts as a token. Return an empty list for ssh and for a URL without credentials.
    """
    parts = urlsplit(url) if "://" in url else None
    if parts is None or parts.scheme == "ssh":
        return []
    secret = parts.password or parts.username
    return [secret, unquote(secret)] if secret else []
