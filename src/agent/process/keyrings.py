"""Keeps a build from finding keys that an earlier build of the same user left in the kernel (keyrings(7)).

All functions do nothing where keys are not available: some kernels have none, and containers often refuse the call.
"""

from __future__ import annotations

import ctypes
import os

_NUMBERS = {"x86_64": 250, "aarch64": 219}
"""Processor architecture -> number of the system call keyctl(2), for which the C library has no function."""
_JOIN_SESSION, _CLEAR, _GET_PERSISTENT = 1, 7, 22
_PROCESS, _USER, _USER_SESSION = -2, -4, -5


def begin_session() -> None:
    """Give this process and its later children a new, empty session keyring in place of the inherited one."""
    _keyctl(_JOIN_SESSION, 0)


def clear_user_rings() -> None:
    """Remove all keys from the user keyring, the user session keyring and the persistent keyring of the user that this
    process runs as.
    """
    for ring in (_USER, _USER_SESSION, _keyctl(_GET_PERSISTENT, -1, _PROCESS)):
        _keyctl(_CLEAR, ring)


def _keyctl(*arguments: int) -> int:
    """Make the system call keyctl(2). Return its result, or -1 if the kernel refuses it."""
    number = _NUMBERS.get(os.uname().machine)
    if number is None:
        return -1
    result: int = ctypes.CDLL(None).syscall(number, *map(ctypes.c_long, arguments))
    return result
