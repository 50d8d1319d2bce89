"""Writes the agent's messages to its operator. It is a module of its own, since all parts of the agent write
messages.
"""

from __future__ import annotations

import contextlib
import os


def print_line(text: str) -> None:
    """Write one line to standard error in a single call. So lines of two threads never mix, and no text is left in a
    buffer when the process ends.
    """
    with contextlib.suppress(OSError):  # nobody reads it: no reason to stop working
        os.write(2, f"{text}\n".encode("utf-8", "replace"))
