"""Reads numbers, durations and exception types in the forms in which reporters write them."""

import math
import re

from commands.reports.parser.notes import Notes

_EXCEPTION = re.compile(
    r"(?:E {1,8})?(?:Uncaught )?([A-Za-z_][\w.$`+\\]{0,255}?"
    r"(?:Error|Exception|Failure|Failed|Warning|Interrupt|Exit|Fault|Timeout|Throwable))\s{0,4}(?::|$)"
)
_PYTEST_END = re.compile(r":\d{1,9}: ([A-Za-z_][\w.]{0,255})\s{0,64}\Z")
_PYTHON_END = re.compile(r"^([A-Za-z_][\w.]{0,255}): ")
_CLOCK = re.compile(r"(?:(\d{1,6})\.)?(\d{1,3}):(\d{1,2}):(\d{1,2}(?:\.\d{1,12})?)")
_LONGEST_MS = 10 * 365 * 86_400_000


def milliseconds(text: str, notes: Notes) -> int:
    """Returns a duration in milliseconds, from seconds ("0.25", "1,234.5", "1.5e-3") or .NET's form ("00:00:01.5").
    Returns 0 for any other text, with a warning if the text is not empty.
    """
    if not text:
        return 0
    clock = _CLOCK.fullmatch(text) if ":" in text else None
    try:
        if clock is not None:
            days, hours, minutes, seconds = clock.groups("0")
            value = ((int(days) * 24 + int(hours)) * 60 + int(minutes)) * 60 + float(seconds)
        else:
            value = float(text.replace(",", "")) if len(text) < 64 else math.nan
    except ValueError:
        value = math.nan
    result = value * 1000
    if not 0 <= result <= _LONGEST_MS:
        notes.add("bad_number", f"a duration of {text[:40]}")
        return 0
    return round(result)


def whole_number(text: str, what: str, notes: Notes) -> int | None:
    """Returns the text as a whole number; None for any other text. Adds a warning about `what` for a text that is
    neither empty nor a whole number.
    """
    text = text.strip()
    if not text:
        return None
    if len(text) < 16 and text.isdecimal():
        return int(text)
    try:
        value = float(text) if len(text) < 32 else math.nan
        if value == int(value) and abs(value) < 1e15:
            return int(value)
    except (ValueError, OverflowError):
        pass
    notes.add("bad_failures" if what in ("failures", "errors", "failed") else "bad_number", f"{what} {text[:40]}")
    return None


def exception_type(declared: str, message: str, trace: str) -> str:
    """Returns the exception type of a failure. This is the declared type, else a type name at the beginning of the
    message, else at the end of the trace, else at the beginning of the trace. Returns an empty text if there is none.
    """
    if declared and " " not in declared.strip():
        return declared.strip()[:256]
    if found := _EXCEPTION.match(message[:512].lstrip()):
        return found.group(1)
    tail = trace[-2048:].rstrip()
    if found := _PYTEST_END.search(tail):
        return found.group(1)
    for line in reversed(tail.splitlines()[-6:]):
        if (found := _EXCEPTION.match(line)) or (trace.startswith("Traceback") and (found := _PYTHON_END.match(line))):
            return found.group(1)
    if found := _EXCEPTION.match(trace[:512].lstrip()):
        return found.group(1)
    return ""


def first_line(text: str, length: int) -> str:
    return text.strip().partition("\n")[0].strip()[:length]
