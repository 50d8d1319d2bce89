r"""Decodes chunks of bytes in any encoding into windows of text, with only the characters that XML allows.

The encoding of a file follows from the first of these that the file has: a byte order mark, first bytes that look like
UTF-16, a declared encoding that fits the bytes. A file with none of them is read as UTF-8. A window has about 64 K
characters, so that neither one huge chunk nor a million tiny chunks cost more. Line ends become "\n" (XML 1.0, 2.11).
Characters that XML 1.0 (2.2) forbids are dropped, but in names of tests they are replaced by visible signs. An ANSI
escape sequence is dropped as a whole, not only its ESC.
"""

import codecs
import re
from collections.abc import Iterable, Iterator

from commands.reports.parser.names import show_in_names
from commands.reports.parser.notes import Notes

WINDOW = 64 * 1024

_BOMS = (
    (codecs.BOM_UTF8, "utf-8"),
    (codecs.BOM_UTF32_LE, "utf-32-le"),
    (codecs.BOM_UTF32_BE, "utf-32-be"),
    (codecs.BOM_UTF16_LE, "utf-16-le"),
    (codecs.BOM_UTF16_BE, "utf-16-be"),
)
_DECLARED = re.compile(rb"""<\?xml[^>]{0,256}?encoding\s{0,8}=\s{0,8}["']([A-Za-z0-9._:-]{1,40})["']""")
# Only these encodings are accepted from a declaration. It may name any codec of Python, and some of these do not decode
# text or take quadratic time.
_SINGLE_BYTE = re.compile(
    r"iso8859-\d{1,2}|cp\d{3,4}|koi8-[ru]|mac-roman|latin-1|shift_jis|euc_(jp|kr)|gb2312|gbk|gb18030|big5"
)
_FORBIDDEN = re.compile(
    "\x1b(?:\\[[0-9;:?]{0,64}[ -/]{0,4}[@-~]?)?|[\x00-\x08\x0b\x0c\x0e-\x1a\x1c-\x1f\ud800-\udfff\ufffe\uffff]+"
)
_UNFINISHED_ESCAPE = re.compile("\x1b(?:\\[[0-9;:?]{0,64}[ -/]{0,4})?\\Z")
_SUSPECT = bytes(code for code in range(0x20) if code not in b"\t\n")
# A file with more bad sequences is noise rather than text with a few errors, and on noise Python's built-in handler is
# faster.
_REPAIRS = 10_000


def decode_windows(chunks: Iterable[bytes], notes: Notes) -> Iterator[str]:
    line = 1
    held = ""
    for suspect, text in _decoded(chunks, notes):
        window = held + text
        suspect, held = suspect or bool(held), ""
        if window.endswith("\r"):
            held, window = "\r", window[:-1]
        elif "\x1b" in window[-80:] and (cut := _UNFINISHED_ESCAPE.search(window, max(0, len(window) - 80))):
            held, window = window[cut.start() :], window[: cut.start()]
        window = _clean(window, line, notes) if suspect else window
        line += window.count("\n")
        if window:
            yield window
    if held and (window := _clean(held, line, notes)):
        yield window


def _clean(window: str, line: int, notes: Notes) -> str:
    if "\r" in window:
        window = window.replace("\r\n", "\n").replace("\r", "\n")
    first = _FORBIDDEN.search(window)
    if first is not None:
        at = line + window.count("\n", 0, first.start())
        count = len(_FORBIDDEN.findall(window))
        window = _FORBIDDEN.sub("", show_in_names(window))
        notes.add("control_characters", line=at, count=count)
    return window


def _decoded(chunks: Iterable[bytes], notes: Notes) -> Iterator[tuple[bool, str]]:
    """Yields pairs (flag, window of text). The flag is False only if the window contains no carriage return and no
    character that XML forbids.
    """
    decoder: codecs.IncrementalDecoder | None = None
    repairs = _Repairs()
    wide = False
    for window in _rewindowed(chunks):
        if decoder is None:
            encoding, skip = _detect(window, notes)
            errors = _HANDLER if encoding == "utf-8" else "replace"
            decoder = codecs.getincrementaldecoder(encoding)(errors)
            window = window[skip:]
            wide = encoding.startswith("utf-") and encoding != "utf-8"
        text = decoder.decode(window)
        if decoder.errors == _HANDLER:
            text = repairs.read(text, notes)
            if repairs.count > _REPAIRS:
                decoder.errors = "replace"
        # Checking the bytes is far faster than searching the text, and most files have none of these characters.
        yield wide or b"\xef\xbf" in window or len(window.translate(None, _SUSPECT)) != len(window), text
    if decoder is not None and (text := decoder.decode(b"", final=True)):
        yield True, repairs.read(text, notes) if decoder.errors == _HANDLER else text


def _rewindowed(chunks: Iterable[bytes]) -> Iterator[bytes]:
    pending: list[bytes] = []
    size = 0
    for chunk in chunks:
        if len(chunk) > WINDOW:
            if pending:
                yield b"".join(pending)
                pending, size = [], 0
            for start in range(0, len(chunk), WINDOW):
                yield bytes(chunk[start : start + WINDOW])
            continue
        pending.append(chunk)
        size += len(chunk)
        if size >= WINDOW:
            yield b"".join(pending)
            pending, size = [], 0
    if size:
        yield b"".join(pending)


def _detect(start: bytes, notes: Notes) -> tuple[str, int]:
    """Returns (encoding of a file that begins with `start`, length of the file's byte order mark in bytes). The length
    is 0 for a file without such a mark.
    """
    for mark, encoding in _BOMS:
        if start.startswith(mark):
            return encoding, len(mark)
    head = start[:4]
    if head[:1] == b"<" and head[1:2] == b"\0":
        return "utf-16-le", 0
    if head[:2] == b"\0<":
        return "utf-16-be", 0
    declared = _DECLARED.search(start[:1024])
    if declared is None:
        return "utf-8", 0
    name = declared.group(1).decode("ascii")
    try:
        codec = codecs.lookup(name).name
    except LookupError:
        codec = ""
    if codec in ("utf-8", "ascii"):
        return "utf-8", 0
    if _SINGLE_BYTE.fullmatch(codec):
        return codec, 0
    wrong = "does not match its bytes" if codec.startswith(("utf-16", "utf-32")) else "is unknown"
    notes.add("encoding", f"the declared encoding {name} {wrong}, the file was read as UTF-8", line=1)
    return "utf-8", 0


# The handler marks each repair with a noncharacter, which XML forbids, so that repairs can be counted without global
# state.
_HANDLER = "testhide-reports-cp1252"
_MARK = "\ufdd0"


def _repair(error: UnicodeError) -> tuple[str, int]:
    if not isinstance(error, UnicodeDecodeError):
        raise error
    return _MARK + error.object[error.start : error.end].decode("cp1252", "replace"), error.end


codecs.register_error(_HANDLER, _repair)


class _Repairs:
    def __init__(self) -> None:
        self.count = 0
        self._line = 1

    def read(self, text: str, notes: Notes) -> str:
        if _MARK in text:
            found = text.count(_MARK)
            self.count += found
            notes.add("bad_bytes", "UTF-8", line=self._line + text.count("\n", 0, text.index(_MARK)), count=found)
            text = text.replace(_MARK, "")
        self._line += text.count("\n")
        return text
