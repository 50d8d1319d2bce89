"""From the bytes that a build prints to whole, masked log lines, in bounded memory."""

from __future__ import annotations

from agent.build.masking import Masker

LONGEST_LINE = 64 * 1024


class LineReader:
    def __init__(self, masker: Masker) -> None:
        self._masker = masker
        self._partial = b""

    def feed(self, data: bytes) -> list[str]:
        first, *others = data.split(b"\n")
        found: list[str] = []
        self._extend(first, found)
        for part in others:
            found.append(self._text(self._masker.mask(self._partial)))
            self._partial = b""
            self._extend(part, found)
        return found

    def flush(self) -> list[str]:
        """The rest that has no line end, when no more can come."""
        rest, self._partial = self._masker.mask(self._partial), b""
        return [self._text(rest)] if rest else []

    def _extend(self, part: bytes, found: list[str]) -> None:
        self._partial = _last_shown(self._partial + part)
        while len(self._partial) > LONGEST_LINE + self._masker.overlap:
            head, self._partial = self._masker.head(self._partial, _character_start(self._partial, LONGEST_LINE))
            found.append(self._text(head))

    def _text(self, line: bytes) -> str:
        return line.rstrip(b"\r").decode("utf-8", "replace")


def _last_shown(line: bytes) -> bytes:
    """A progress bar writes itself over with carriage returns: what a terminal would still show."""
    body = line.rstrip(b"\r")
    return line[body.rfind(b"\r") + 1 :]


def _character_start(data: bytes, cut: int) -> int:
    """The nearest place at or before the cut that is not inside a UTF-8 character."""
    for place in range(cut, cut - 4, -1):
        if data[place] & 0xC0 != 0x80:
            return place
    return cut  # not UTF-8 at all
