"""Finds a text in bytes in any form in which programs write it: escaped for XML, JSON, Python or a URL, in base64, or
in hex.

Each character is matched in all its forms. So mixed forms are found too, such as `\\&quot;` for a quote in JSON in XML.
No secret can make the search slow: two alternative forms of one character always begin or end differently, so few
combinations of forms can match the same bytes.
"""

from __future__ import annotations

import base64
import math
import re
from collections.abc import Iterator
from html.entities import codepoint2name
from typing import NamedTuple

ENCODINGS = ("utf-8", "utf-16-le", "utf-16-be")
_CDATA, _CDATA_END = "<![CDATA[", "]]>"
_MIN_BASE64 = 6  # characters; shorter pieces of base64 are too common in ordinary text to be masked
_ALNUM_BYTES = 25
"""Upper limit for the UTF-8 bytes of an ASCII letter or digit, with the two marks of CDATA that may follow it."""
_OTHER_BYTES = 104
"""Upper limit for the UTF-8 bytes of the longest form of any other character, with the two marks of CDATA that may
follow it.
"""
MAX_TEXT = 1024
"""Largest number of characters of a text. A longer secret is searched for in parts, since the pattern for 1,024
characters already takes up to 16 MB, and 0.3 s to make.
"""
_JSON_ESCAPES = {"\n": "n", "\r": "r", "\t": "t", "\b": "b", "\f": "f"}


class Text(NamedTuple):
    """A text that is searched for in all its forms."""

    text: str
    anchor: bytes
    """Longest run of ASCII letters and digits. These are never escaped, so bytes without this run contain no form of
    the text.
    """

    @property
    def max_bytes(self) -> int:
        """Size in bytes of the longest form of the text, in UTF-16."""
        return 2 * sum(_ALNUM_BYTES if _is_alnum(character) else _OTHER_BYTES for character in self.text)

    @property
    def size(self) -> int:
        """Estimated size of the pattern for one encoding: a letter or digit counts 1, and any other character 8."""
        return sum(1 if _is_alnum(character) else 8 for character in self.text)

    @property
    def first_bytes(self) -> set[int]:
        """Bytes with which a form can begin, in any encoding."""
        if _is_alnum(self.text[0]):
            return {ord(self.text[0]), 0}
        coded = (self.text[0].encode(encoding, "replace") for encoding in (*ENCODINGS, "latin-1"))
        return {*b"\\&%+\r\0", *(form[0] for form in coded)}

    def pattern(self, encoding: str) -> bytes:
        """Return the regular expression that matches all forms of the text in one encoding of `ENCODINGS`."""
        return _Forms(encoding).text(self.text)


def list_texts(secret: str) -> Iterator[Text]:
    """Yield the texts whose forms show a secret in a log or report: the secret itself, its hex forms, and pieces of its
    base64 forms, also those of URL-safe base64.

    Base64 has three spellings of a secret, depending on the number of bytes before it. Of each spelling, only the
    characters that do not depend on the bytes around the secret are yielded, and none if they are fewer than
    `_MIN_BASE64`. A text longer than `MAX_TEXT` is yielded in parts of about the same length.
    """
    data = secret.encode("utf-8", "replace")
    found = {secret, data.hex(), data.hex().upper()}
    for shift in range(3):
        # The first and the last character also depend on the bytes around the secret.
        encoded = base64.b64encode(bytes(shift) + data).decode().rstrip("=")
        piece = encoded[(0, 2, 3)[shift] : len(encoded) - ((shift + len(data)) % 3 != 0)]
        if len(piece) >= _MIN_BASE64:
            found |= {piece, piece.replace("+", "-").replace("/", "_")}
    for text in found:
        size = math.ceil(len(text) / math.ceil(len(text) / MAX_TEXT))
        for start in range(0, len(text), size):
            part = text[start : start + size]
            runs: list[str] = re.findall("[A-Za-z0-9]+", part)
            yield Text(part, max(runs, key=len, default="").encode())


def strip_marks(data: bytes) -> bytes:
    """Return the data without marks of CDATA and zero bytes of UTF-16, which may stand between the characters of a
    form.
    """
    if b"\0" in data:
        data = data.translate(None, b"\0")
    return data.replace(_CDATA.encode(), b"").replace(_CDATA_END.encode(), b"")


def find_marks(form: bytes, encoding: str) -> bytes:
    """Return the marks of CDATA in a form. They must stay when the form is masked, since the XML could not be read
    without them.
    """
    return b"".join(re.findall(b"|".join(re.escape(mark.encode(encoding)) for mark in (_CDATA, _CDATA_END)), form))


def _is_alnum(character: str) -> bool:
    return character.isascii() and character.isalnum()


class _Forms:
    """Builds regular expressions for bytes in one encoding."""

    def __init__(self, encoding: str) -> None:
        self._encoding = encoding
        self._amp = self._lit("&") + self._repeated("amp;", 0, 2)

    def text(self, text: str) -> bytes:
        """Return the expression that matches all forms of the text. Marks of CDATA may stand between the characters of
        the text. If the text itself contains an end mark, only an end mark followed by a begin mark may. If the text
        contains a begin mark, none may.
        """
        mark = self._repeated(_CDATA_END + _CDATA, 0, 1) if _CDATA_END in text else self._any_mark()
        between = b"" if _CDATA in text else mark
        parts: list[bytes] = []
        is_after_backslash = False
        # A run of backslashes is one part, and the part after it takes none: else there were many ways to match.
        for run in re.findall(r"\\+|[^\\]", text):
            parts.append(self._run(run, is_after_backslash))
            is_after_backslash = run[0] == "\\"
        return between.join(parts)

    def _run(self, run: str, is_after_backslash: bool) -> bytes:
        if run[0] == "\\":
            escaped = self._any_of([self._xml("\\"), self._percent("\\"), self._unicode("\\", self._lit("\\"))])
            plain = self._repeated("\\", len(run), 8 * len(run))
            return b"(?:%b|(?:%b){%d})" % (plain, escaped, len(run))
        if _is_alnum(run):
            return self._lit(run)
        slash = self._lit("\\") if is_after_backslash else self._repeated("\\", 1, 4)
        skipped = b"" if is_after_backslash else self._repeated("\\", 0, 4)
        raw = [self._lit(run), self._xml(run), self._percent(run)]
        if run == "\n":
            raw.append(self._lit("\r\n"))
        if run == " ":
            raw.append(self._lit("+"))
        if self._encoding == "utf-8" and not run.isascii() and ord(run) < 256:
            raw.append(re.escape(run.encode("latin-1")))
        return self._any_of([skipped + self._any_of(raw), self._unicode(run, slash), self._bytes(run, slash)])

    def _xml(self, character: str) -> bytes:
        code = ord(character)
        names = [codepoint2name[code]] if code in codepoint2name else ["apos"] if character == "'" else []
        numbers = [
            self._lit("#") + self._repeated("0", 0, 5) + self._lit(str(code)),
            self._lit("#")
            + self._any_of([self._lit("x"), self._lit("X")])
            + self._repeated("0", 0, 5)
            + self._hex(code),
        ]
        return self._amp + self._any_of([*map(self._lit, names), *numbers]) + self._lit(";")

    def _percent(self, character: str) -> bytes:
        sign = self._lit("%") + self._repeated("25", 0, 2)
        return b"".join(sign + self._hex(byte, 2) for byte in character.encode("utf-8", "replace"))

    def _unicode(self, character: str, slash: bytes) -> bytes:
        """Return the expression that matches the JSON escapes of a character."""
        units = character.encode("utf-16-be", "replace")
        codes = [units[at] << 8 | units[at + 1] for at in range(0, len(units), 2)]
        escaped = b"".join(slash + self._lit("u") + self._hex(code, 4) for code in codes)
        short = _JSON_ESCAPES.get(character)
        return self._any_of([escaped, slash + self._lit(short)]) if short else escaped

    def _bytes(self, character: str, slash: bytes) -> bytes:
        """Return the expression that matches the Python escapes of a character: `\\xe9` in a text, `\\xc3\\xa9` in
        bytes.
        """
        code = ord(character)
        written = [character.encode("utf-8", "replace")] + ([bytes([code])] if code < 256 else [])
        forms = [b"".join(slash + self._lit("x") + self._hex(byte, 2) for byte in data) for data in written]
        return self._any_of([*forms, slash + self._lit("U") + self._hex(code, 8)])

    def _hex(self, code: int, digits: int = 1) -> bytes:
        return b"".join(
            self._any_of([self._lit(digit), self._lit(digit.upper())]) if digit.isalpha() else self._lit(digit)
            for digit in f"{code:0{digits}x}"
        )

    def _any_mark(self) -> bytes:
        return b"(?:%b){0,2}" % self._any_of([self._lit(_CDATA), self._lit(_CDATA_END)])

    def _repeated(self, text: str, least: int, most: int) -> bytes:
        return b"(?:%b){%d,%d}" % (self._lit(text), least, most)

    def _lit(self, text: str) -> bytes:
        return re.escape(text.encode(self._encoding, "replace"))

    @staticmethod
    def _any_of(expressions: list[bytes]) -> bytes:
        return b"(?:%b)" % b"|".join(dict.fromkeys(expressions))
