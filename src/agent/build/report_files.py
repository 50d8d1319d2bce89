"""Recognizes test reports among the files of a build, and masks secrets in them."""

from __future__ import annotations

import fnmatch
import gzip
import os
import re
import tempfile
import zlib
from collections.abc import Iterator
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import BinaryIO, cast

from agent.build.masking import Masker

_GZIP = b"\x1f\x8b"
_MAX_UNPACKED = 512 * 1024 * 1024  # bytes of a decompressed report; the server reads no more of one either
_HEAD_BYTES = 4096  # of a file, read to recognize a report by its root element
_REPORT_ROOT = re.compile(r"<(?:[\w.-]+:)?(?:testsuites|testsuite|test-run|assemblies|TestRun)[\s/>]")
# Test reports in formats that the server cannot read. The server fails a build that sends one, and has the same list in
# `commands.reports.parser.other_formats`.
_OTHER_REPORT = re.compile(
    r"<(?:testng-results|TestLog|TestResult|Catch|Catch2TestRun|doctest|testExecutions|unittest-results"
    r"|CUNIT_TEST_RUN_RESULTS_REPORT|Testing)[\s/>]|<robot\s[^>]*generator=[\"']R(?:obot|ebot)"
)
_HTML = re.compile(r"<(?:!doctype\s+html|html)\b", re.IGNORECASE)
_XML = re.compile(r"\ufeff?\s*<[?!\w]")
_REPORT_NAMES = ("junit*.xml", "TEST-*.xml", "*.trx")  # also with .gz; the server has the same in `domain.artifacts`
_CHUNK_BYTES = 1 << 20


def is_report(path: str, file: BinaryIO) -> bool:
    """Return whether to send the file as a test report.

    XML of another kind, such as a coverage report, counts as a test report only if its file name matches
    `_REPORT_NAMES`. Empty files, plain text and HTML are sent as reports: a reporter that failed leaves such files, and
    the server then fails the build.
    """
    file.seek(0)
    head = next(_unpack(file, _HEAD_BYTES), b"")
    text = head.decode("utf-16" if head[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8", "replace")
    if _REPORT_ROOT.search(text) or _OTHER_REPORT.search(text):
        return True
    file_name = os.path.basename(path).removesuffix(".gz")
    has_report_name = any(fnmatch.fnmatchcase(file_name, name) for name in _REPORT_NAMES)
    return has_report_name or not _XML.match(text) or "\0" in text or bool(_HTML.search(text))


def mask_report(file: BinaryIO, masker: Masker, folder: Path) -> BinaryIO:
    """Return the file itself if it contains nothing to mask, otherwise a masked temporary copy. The caller closes the
    file and the copy.

    The copy of a gzip file is a gzip file too. If the original is cut off or damaged, the copy ends there.
    """
    if not masker:
        return file
    copy = cast(BinaryIO, tempfile.TemporaryFile(dir=folder))  # noqa: SIM115 (handed out)
    with ExitStack() as opened:
        target = opened.enter_context(gzip.GzipFile("", "wb", fileobj=copy, mtime=0)) if _is_packed(file) else copy
        for chunk in masker.mask_chunks(_unpack(file, _CHUNK_BYTES)):
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
