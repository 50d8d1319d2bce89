"""Writes the agent's messages to its operator. Its own module, since every layer of the agent writes messages."""

from __future__ import annotations

import contextlib
import os


def print_line(text: str) -> None:
    """Write one line to standard error in one call: lines of two threads never mix, and no buffer is lost at exit."""
    with contextlib.suppress(OSError):  # nobody reads it: no reason to stop working
        os.write(2, f"{text}\n".encode("utf-8", "replace"))
