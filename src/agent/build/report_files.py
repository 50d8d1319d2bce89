"""Recognizes test reports among the files of a build, and masks secrets in them."""

from __future__ import annotations

import codecs
import gzip
import re
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from itertools import chain
from pathlib import Path
from typing import BinaryIO, cast

from agent.build.masking import Masker
from agent.build.report_markup import is_markup
from formats.reports import AMBIGUOUS, DIALECTS, find_other_format, is_reserved_for_reports, is_result

_GZIP = b"\x1f\x8b"
_MAX_UNPACKED = 512 * 1024 * 1024  # bytes of a decompressed report; the server reads no more of a report either
_CHUNK_BYTES = 1 << 20
_LOOK_BYTES = 1 << 16  # that are read at once to recognize a report
_HEAD_CHARACTERS = 4096  # of a file, which show whether it is XML
_MAX_PROLOG = 16 << 20  # characters before the root element: comments, instructions and document type
_MAX_DECLARATION = 1 << 20  # characters of one declaration of a document type
_HTML = re.compile(r"<(?:!doctype\s+html|html)\b", re.IGNORECASE)
_XML = re.compile(r"\ufeff?\s*<[?!\w]")
_DECLARATION = re.compile(r"""<!(?:[^"'<>\[]|"[^"]*"|'[^']*')*[>\[]""")  # up to `[`, other declarations follow
_START_TAG = re.compile(r"<(?:[\w.-]+:)?([^\W\d][\w.-]*)(?=[\s/>])([^<>]*)")
_ATTRIBUTE = re.compile(r"""([\w.-]+)\s*=\s*["']([^"']*)["']""")


def is_report(path: str, file: BinaryIO) -> bool:
    """Return whether to send the file as a test report: if its first elements are those of a format of test reports.

    XML of another kind, such as a coverage report, is sent only if its file name is reserved for test reports.
    Empty files, plain text, XML without an element and HTML are sent as reports: a reporter that failed leaves such
    files, and the server then fails the build.
    """
    if is_reserved_for_reports(path):
        return True
    head, elements = _read_head(_decode(_unpack(file, _LOOK_BYTES)))
    if not _XML.match(head) or "\0" in head or _HTML.search(head):
        return True
    root, may_have_results = "", False
    for tag in _START_TAG.finditer(elements):
        name, attributes = tag.group(1), dict(_ATTRIBUTE.findall(tag.group(2)))
        root = root or name
        is_ambiguous = name in AMBIGUOUS and name != root
        may_have_results = may_have_results or is_ambiguous
        if (name in DIALECTS and not is_ambiguous) or find_other_format(root, name, attributes):
            return True
        if may_have_results and is_result(name, attributes):
            return True
    return not root


def _decode(chunks: Iterator[bytes]) -> Iterator[str]:
    first = next(chunks, b"")
    encoding = "utf-16" if first[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8"
    return codecs.iterdecode(chain((first,), chunks), encoding, "replace")


def _read_head(texts: Iterator[str]) -> tuple[str, str]:
    """Return two texts: the first characters of an XML document, and its first characters from the root element on. The
    second text is empty if there is no root element within `_MAX_PROLOG` characters.
    """
    head = rest = until = ""
    size = 0
    for text in texts:
        head += text[: _HEAD_CHARACTERS - len(head)]
        size += len(text)
        rest, until = _skip_prolog(rest + text, until)
        is_root = rest[:1] == "<" and rest[1:2] not in ("", "!", "?")
        if is_root and len(rest) >= _LOOK_BYTES:
            break
        if not is_root and (size > _MAX_PROLOG or len(rest) > _MAX_DECLARATION):
            return head, ""
    return head, "" if until or rest[:2] in ("<", "<!", "<?") else rest


def _skip_prolog(text: str, until: str) -> tuple[str, str]:
    """Skip the part of an XML document before its root element. `text` is the next part of the document. If it begins
    inside a comment or instruction, `until` is the mark that ends this; otherwise `until` is empty.

    Return the text from the root element on, and an empty mark. If `text` does not contain the beginning of the root
    element, return the end of `text`, which the caller puts before the next part, and the `until` for the next call.
    """
    at = 0
    while True:
        if until:
            end = text.find(until, at)
            if end < 0:
                return text[max(at, len(text) - 2) :], until
            at, until = end + len(until), ""
        at = text.find("<", at)
        if at < 0:
            return "", ""
        if text.startswith("<!--", at):
            at, until = at + 4, "-->"
        elif text.startswith("<?", at):
            at, until = at + 2, "?>"
        elif text.startswith("<!", at) and len(text) - at >= 4 and (found := _DECLARATION.match(text, at)):
            at = found.end()
        else:
            return text[at:], ""


def mask_report(file: BinaryIO, masker: Masker, folder: Path) -> BinaryIO:
    """Return the file itself if `masker` has no secrets, otherwise a temporary copy of the file in which secrets are
    masked. The caller closes the file and the copy.

    The copy of a gzip file is a gzip file too. If the gzip file is cut off or damaged, the copy ends at that point.
    """
    if not masker:
        return file
    copy = cast(BinaryIO, tempfile.TemporaryFile(dir=folder))  # noqa: SIM115 (handed out)
    with ExitStack() as opened:
        target = opened.enter_context(gzip.GzipFile("", "wb", fileobj=copy, mtime=0)) if _is_packed(file) else copy
        for chunk in masker.mask_chunks(_unpack(file, _CHUNK_BYTES), is_markup):
            target.write(chunk)
    copy.flush()
    return copy


def _is_packed(file: BinaryIO) -> bool:
    file.seek(0)
    return file.read(len(_GZIP)) == _GZIP


def _unpack(file: BinaryIO, chunk_bytes: int) -> Iterator[bytes]:
    """Yield the contents of the file from its beginning, decompressed if it is a gzip file.

    Stops without an error where a gzip file is cut off or damaged, and after `_MAX_UNPACKED` bytes.
    """
    is_packed = _is_packed(file)
    file.seek(0)
    if not is_packed:
        yield from iter(lambda: file.read(chunk_bytes), b"")
        return
    size = 0
    with gzip.GzipFile(fileobj=file) as unpacked, suppress(OSError, EOFError, zlib.error):
        while size < _MAX_UNPACKED and (chunk := unpacked.read1(chunk_bytes)):
            size += len(chunk)
            yield chunk
