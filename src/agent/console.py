"""What the agent tells its operator: one line on standard error each."""

from __future__ import annotations

import contextlib
import os


def say(text: str) -> None:
    # One write per line: threads never mix, and no buffer is left at exit.
    with contextlib.suppress(OSError):  # nobody reads it: that is no reason to stop working
        os.write(2, f"{text}\n".encode("utf-8", "replace"))
