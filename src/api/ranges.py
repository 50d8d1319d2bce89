"""HTTP ranges (RFC 9110, section 14): one range of bytes of a file."""

import re

_RANGE = re.compile(r"bytes=(\d{0,18})-(\d{0,18})", re.ASCII)


class Unsatisfiable(Exception):
    """No byte of the range is in the file: 416."""


def byte_range(header: str | None, size: int) -> tuple[int, int] | None:
    """First and one past the last byte that are wanted; None for the whole file.

    A header that is no single range of bytes is to be ignored, says the RFC.
    """
    found = _RANGE.fullmatch((header or "").replace(" ", ""))
    if found is None or found[1] == found[2] == "":
        return None
    first, last = found[1], found[2]
    if not first:
        start, end = max(0, size - int(last)), size
    else:
        start, end = int(first), min(int(last) + 1, size) if last else size
        if last and int(last) < int(first):
            return None
    if start >= size or start >= end:
        raise Unsatisfiable
    return start, end
