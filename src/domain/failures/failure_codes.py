"""Descriptions of standard codes in failure messages, so that a search for `connection refused` finds `ECONNREFUSED`.

The descriptions are those of the operating system and of HTTP. The codes are names and numbers of errors (`EACCES`,
`[Errno 28]`), names of signals (`SIGSEGV`), exit codes of processes that a signal has ended (`exit code 137`), and
statuses of HTTP (`404`).
"""

import errno
import os
import re
import signal
from collections.abc import Iterator
from http import HTTPStatus

_NAMES = {name: os.strerror(number) for number, name in errno.errorcode.items()} | {
    item.name: signal.strsignal(item) or item.name for item in signal.Signals
}
_STATUSES = {str(status.value): status.phrase for status in HTTPStatus if status >= 400}
_NAME = re.compile(r"\b(?:E[A-Z0-9]{2,15}|SIG[A-Z0-9]{2,9})\b")
_ERRNO = re.compile(r"\berrno (\d{1,4})\b", re.IGNORECASE)
_STATUS = re.compile(r"(?<![\w.,/:-])[45]\d\d(?![\w.,:/%-])")
_EXIT = re.compile(r"\bexit (?:code|status) (\d{1,3})\b", re.IGNORECASE)
_BY_SIGNAL = 128
"""Number that a shell adds to a signal's number to get the exit code of a process that the signal has ended."""


def describe_codes(text: str) -> str:
    """Returns the descriptions of all codes in a text, each once; an empty text if it contains no code."""
    return " ".join(dict.fromkeys(_descriptions(text)))


def _descriptions(text: str) -> Iterator[str]:
    yield from (_NAMES[name] for name in _NAME.findall(text) if name in _NAMES)
    for number in map(int, _ERRNO.findall(text)):
        if number in errno.errorcode:
            yield os.strerror(number)
    yield from (_STATUSES[status] for status in _STATUS.findall(text) if status in _STATUSES)
    for number in map(int, _EXIT.findall(text)):
        if number - _BY_SIGNAL in {item.value for item in signal.Signals}:
            yield signal.strsignal(number - _BY_SIGNAL) or ""
