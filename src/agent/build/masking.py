"""Masks secrets before they leave the machine: their bytes become `***` in log lines and reports."""

from __future__ import annotations

import re
import time
from collections.abc import Callable, Iterable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any, NamedTuple
from urllib.parse import unquote, urlsplit

from agent.build.encoded_forms import ENCODINGS, find_marks, list_texts, strip_marks

SHORTEST_SECRET = 4  # characters; shorter values are too common in ordinary text to be masked
_MAX_SIZE = 64 * 1024  # of one pattern: it takes 3 s to make at most. Data with more secrets are masked whole
_MAX_PATTERNS = 32  # that are kept
_QUICK_STEPS = 500_000
"""Largest product of pattern size and bytes of data for which one call of `re` searches all data at once. Such a call
takes 0.06 s at most. Calls must be short: no other thread runs meanwhile, not even the one that keeps the node online.
"""
_CHECK_INTERVAL = 16  # positions between two checks of the time
_MIN_SEARCH_S = 0.5
"""Seconds of CPU time that a search may take for any data. What was not searched in time is masked as a whole."""
_SEARCH_S_PER_BYTE = 20e-6
"""Additional seconds of CPU time that a search may take for each byte of data. Ordinary data needs a fortieth of this
time. Only data with very many near-matches of a secret needs more than this time.
"""
_MAX_TAG = 4096  # bytes before the end of a chunk in which the beginning of a tag is looked for
_URL_CREDENTIALS = re.compile(r"(?<=://)[^/@\s]+@")
IsKept = Callable[[bytes, int, int], bool]
"""Function that gets data and the start and end of a secret in the data. Returns whether the secret stays unmasked."""


class Masker:
    """Replaces secrets by `***`, in every form in which programs write them (see `encoded_forms`).

    Works on bytes: a log may have no valid encoding, and reports have different ones.
    """

    def __init__(self, secrets: Iterable[str]) -> None:
        parts = {part.strip() for secret in secrets for part in (secret, *secret.splitlines())}
        texts = {text for part in parts if len(part) >= SHORTEST_SECRET for text in list_texts(part)}
        # Longest first: a secret that begins like another is masked whole.
        self._texts = sorted(texts, key=lambda found: (-len(found.text), found.text))
        self._patterns: dict[tuple[int, ...], _Pattern] = {}
        """Cache of compiled patterns. A key has the indexes of the texts that the pattern finds, followed by the number
        of encodings as a negative number.
        """
        self.overlap = max((text.max_bytes for text in self._texts), default=0)
        """Number of bytes after a cut that `mask_head` needs, to find every secret that crosses the cut."""

    def mask(self, data: bytes) -> bytes:
        search = self.find_search(data)
        return search.mask(data) if search else data

    def mask_text(self, text: str) -> str:
        return self.mask(text.encode("utf-8", "replace")).decode("utf-8", "replace")

    def mask_head(self, data: bytes, cut: int, is_kept: IsKept | None = None) -> tuple[bytes, bytes]:
        """Return the part of the data before `cut`, masked, and the rest, unmasked. If a secret lies across the cut,
        the cut moves to the end of that secret.
        """
        search = self.find_search(data, is_kept)
        if not search:
            return data[:cut], data[cut:]
        for start, end, _ in search.find(data):
            if start >= cut:
                break
            cut = max(cut, end)
        return search.mask(data[:cut]), data[cut:]

    def mask_chunks(self, chunks: Iterable[bytes], is_kept: IsKept) -> Iterator[bytes]:
        """Yield the XML in `chunks`, masked except for what `is_kept` returns True for. Secrets that lie across the
        border of two chunks are masked too.
        """
        rest = b""
        for chunk in chunks:
            data = rest + chunk
            cut = max(len(data) - self.overlap, 0)
            # Before a tag, so that `is_kept` sees the whole tag.
            cut = max(data.rfind(b"<", max(cut - _MAX_TAG, 0), cut), 0) or cut
            masked, rest = self.mask_head(data, cut, is_kept)
            yield masked
        search = self.find_search(rest, is_kept)
        yield search.mask(rest) if search else rest

    def __bool__(self) -> bool:
        """Return whether there is anything to mask."""
        return bool(self._texts)

    def find_search(self, data: bytes, is_kept: IsKept | None = None) -> Search | None:
        """Return a search for those secrets that may be in the data; None if no secret can be there.

        Each secret has an anchor: a part without special characters. Data without the anchor cannot contain the secret.
        Looking for anchors is much faster than a search for patterns, and excludes nearly all secrets.
        """
        if not self._texts:
            return None
        stripped = strip_marks(data)
        found = tuple(index for index, text in enumerate(self._texts) if text.anchor in stripped)
        if not found:
            return None
        encodings = ENCODINGS if b"\0" in data else ENCODINGS[:1]
        return Search(self._pattern(found, encodings), _MIN_SEARCH_S + _SEARCH_S_PER_BYTE * len(data), is_kept)

    def _pattern(self, found: tuple[int, ...], encodings: tuple[str, ...]) -> _Pattern | None:
        texts = [self._texts[index] for index in found]
        size = sum(text.size for text in texts) * len(encodings)
        if size > _MAX_SIZE:
            return None
        key = (*found, -len(encodings))
        if key not in self._patterns:
            if len(self._patterns) >= _MAX_PATTERNS:
                self._patterns.clear()
            groups = (b"|".join(text.pattern(encoding) for text in texts) for encoding in encodings)
            whole = re.compile(b"|".join(b"(%b)" % group for group in groups))
            first = re.compile(b"[%b]" % re.escape(bytes(sorted(set().union(*(text.first_bytes for text in texts))))))
            self._patterns[key] = _Pattern(whole, first, size)
        return self._patterns[key]


class _Pattern(NamedTuple):
    whole: re.Pattern[bytes]
    """Matches any form of any of the secrets. It has one group for each encoding."""
    first: re.Pattern[bytes]
    """Matches any byte with which `whole` can begin."""
    size: int


@dataclass
class Search:
    """Finds secrets in the data that `Masker.find_search` got, or in parts of this data. The searches of all parts
    together take at most `_seconds_left` of CPU time. After that, the rest of the data counts as one secret.
    """

    _pattern: _Pattern | None
    """Pattern of the secrets to find. None if they are too many for a pattern: then all data counts as one secret."""
    _seconds_left: float
    _is_kept: IsKept | None

    def mask(self, data: bytes) -> bytes:
        masked, copied = [], 0
        for start, end, replacement in self.find(data):
            masked += [data[copied:start], replacement]
            copied = end
        return b"".join([*masked, data[copied:]])

    def find(self, data: bytes) -> Iterator[tuple[int, int, bytes]]:
        """Yield (start, end, replacement) for each secret that is not kept, in the order of the data."""
        is_kept = self._is_kept
        return (found for found in self._find(data) if is_kept is None or not is_kept(data, found[0], found[1]))

    def _find(self, data: bytes) -> Iterator[tuple[int, int, bytes]]:
        position, pattern = 0, self._pattern
        end_at = time.thread_time() + self._seconds_left
        if pattern and self._seconds_left > 0 and pattern.size * len(data) <= _QUICK_STEPS:
            for match in pattern.whole.finditer(data):
                yield match.start(), match.end(), _replacement(match)
            position = len(data)
        while pattern and time.thread_time() < end_at and position < len(data):
            for _ in range(_CHECK_INTERVAL):
                candidate = pattern.first.search(data, position)
                if not candidate:
                    position = len(data)
                    break
                match_here = pattern.whole.match(data, candidate.start())
                position = candidate.start() + 1
                if match_here:
                    position = match_here.end()
                    yield match_here.start(), position, _replacement(match_here)
        self._seconds_left = end_at - time.thread_time()
        if position < len(data):
            yield position, len(data), b"***"


def _replacement(match: re.Match[bytes]) -> bytes:
    assert match.lastindex is not None  # every encoding is a group
    encoding = ENCODINGS[match.lastindex - 1]
    return "***".encode(encoding) + find_marks(match.group(), encoding)


def hide_credentials(text: str) -> str:
    """Replace user name and password in every URL of the text by `***`."""
    return _URL_CREDENTIALS.sub("***@", text)


def find_secrets(message: Mapping[str, Any]) -> list[str]:
    """Return the values that are masked in the log and the reports of a build: the secrets of the job, and the password
    or token for its repository. `message` is the server's `run` message for the build.
    """
    credentials = message.get("repository_credentials") or {"password": ""}
    return [
        *message["secrets"].values(),
        *find_url_secrets(message.get("repository") or ""),
        *credentials["password"].splitlines(),
    ]


def find_url_secrets(url: str) -> list[str]:
    """Return the secrets in a URL: its password, as written and percent-decoded. If the URL has a user name but no
    password, the user name counts as a token. Return an empty list for ssh and for a URL without credentials.
    """
    parts = urlsplit(url) if "://" in url else None
    if parts is None or parts.scheme == "ssh":
        return []
    secret = parts.password or parts.username
    return [secret, unquote(secret)] if secret else []
