"""Turns the bytes that a build prints into whole, masked log lines, in bounded memory."""

from __future__ import annotations

from agent.build.masking import Masker

MAX_LINE_BYTES = 64 * 1024  # a longer line is divided


class LineReader:
    def __init__(self, masker: Masker) -> None:
        self._masker = masker
        self._partial = b""

    def feed(self, data: bytes) -> list[str]:
        """Return the lines that `data` completes, masked. Keep the bytes after the last line end for the next call."""
        search = self._masker.find_search(self._partial + data)  # for all lines at once: most chunks hold no secret
        first, *others = data.split(b"\n")
        found: list[str] = []
        self._extend(first, found)
        for part in others:
            found.append(_decode(search.mask(self._partial) if search else self._partial))
            self._partial = b""
            self._extend(part, found)
        return found

    def flush(self) -> list[str]:
        """Return a list of one masked line: the bytes after the last line end. Return an empty list if no bytes are
        left.
        """
        rest, self._partial = self._masker.mask(self._partial), b""
        return [_decode(rest)] if rest else []

    def _extend(self, part: bytes, found: list[str]) -> None:
        self._partial = _drop_overwritten(self._partial + part)
        while len(self._partial) > MAX_LINE_BYTES + self._masker.overlap:
            cut = _find_character_start(self._partial, MAX_LINE_BYTES)
            head, self._partial = self._masker.mask_head(self._partial, cut)
            found.append(_decode(head))


def _decode(line: bytes) -> str:
    return line.rstrip(b"\r").decode("utf-8", "replace")


def _drop_overwritten(line: bytes) -> bytes:
    """Return the part of a line that a terminal would still show. A carriage return, as progress bars print it, makes a
    terminal begin the line anew.
    """
    body = line.rstrip(b"\r")
    return line[body.rfind(b"\r") + 1 :]


def _find_character_start(data: bytes, cut: int) -> int:
    """Return the last index up to `cut` at which a UTF-8 character begins."""
    for index in range(cut, cut - 4, -1):
        if data[index] & 0xC0 != 0x80:
            return index
    return cut  # not UTF-8 at all
