"""How this program starts another copy of itself."""

from __future__ import annotations

import os
import sys


def command_line() -> list[str]:
    """The interpreter, isolated from the environment, and the zipapp or folder that we run from."""
    package = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    archive = os.path.dirname(package)
    return [sys.executable, "-I", archive if os.path.isfile(archive) else package]
