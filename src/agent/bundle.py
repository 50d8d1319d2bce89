"""Builds the zipapp that the server offers for download. The same sources give the same bytes, and so the same
SHA-256.
"""

from __future__ import annotations

import io
import zipfile
from pathlib import Path

_SHEBANG = b"#!/usr/bin/env python3\n"
_ROOT_MAIN = b"""import sys

from agent.__main__ import main

sys.exit(main(sys.argv[1:]))
"""
_PACKAGES = ("agent", "formats")
_FIXED_TIME = (1980, 1, 1, 0, 0, 0)


def build_zipapp() -> bytes:
    sources = Path(__file__).parents[1]
    files = {
        path.relative_to(sources).as_posix(): path.read_bytes()
        for package in _PACKAGES
        for path in (sources / package).rglob("*.py")
        if path != Path(__file__)
    }
    files["__main__.py"] = _ROOT_MAIN
    out = io.BytesIO()
    out.write(_SHEBANG)
    with zipfile.ZipFile(out, "w", zipfile.ZIP_STORED) as archive:  # compressed bytes differ between zlib versions
        for name in sorted(files):
            entry = zipfile.ZipInfo(name, _FIXED_TIME)
            entry.external_attr = 0o100644 << 16
            entry.create_system = 3
            archive.writestr(entry, files[name])
    return out.getvalue()
