"""Which files are test reports, and their masked copies."""

from __future__ import annotations

import fnmatch
import os
import re
import tempfile
from typing import BinaryIO, cast

from agent.build.masking import Masker

ENDINGS = (".xml", ".trx")
_START = 4096
_ROOT = re.compile(r"<(?:[\w.-]+:)?(?:testsuites|testsuite|test-run|assemblies|TestRun)[\s/>]")
_HTML = re.compile(r"<(?:!doctype\s+html|html)\b", re.IGNORECASE)
_USUAL_NAMES = ("junit*.xml", "report*.xml", "TEST-*.xml")


def is_report(path: str, file: BinaryIO, since: int) -> bool:
    """A results file that this build wrote, not one from the repository; `since` is in ns."""
    if os.fstat(file.fileno()).st_mtime_ns < since:
        return False
    file.seek(0)
    start = _decode(file.read(_START))
    if _ROOT.search(start):
        return True
    # A reporter that failed leaves nothing or an error page: the server says so beside the results.
    usual = any(fnmatch.fnmatchcase(os.path.basename(path), name) for name in _USUAL_NAMES)
    return usual and (not start.strip() or bool(_HTML.search(start)))


def masked(file: BinaryIO, masker: Masker, folder: str) -> BinaryIO:
    """The file itself when there is nothing to mask, else a nameless copy; the caller closes both."""
    if not masker:
        return file
    copy = cast(BinaryIO, tempfile.TemporaryFile(dir=folder))  # noqa: SIM115 (handed out)
    file.seek(0)
    for chunk in masker.stream(file):
        copy.write(chunk)
    copy.flush()
    return copy


def _decode(start: bytes) -> str:
    encoding = "utf-16" if start[:2] in (b"\xff\xfe", b"\xfe\xff") else "utf-8"
    return start.decode(encoding, "replace")
