"""Password hashing with Argon2id, on a thread pool with one thread for each processor."""

import asyncio
import os
import sys
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import cache
from typing import TypeVar

from argon2 import PasswordHasher, Type
from argon2.exceptions import InvalidHashError, VerificationError

from domain.core.errors import Unavailable

# The parameters that OWASP recommends for Argon2id: 19 MiB, two passes, one lane. They take about 20 ms.
_hasher = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1, type=Type.ID)

T = TypeVar("T")
MAX_WAITING = 32
"""Largest number of passwords in a process that are being hashed or wait for a thread. On two processors, the last of
these passwords waits 0.3 s.
"""
_waiting = 0
MIN_LENGTH = 8
"""Least number of characters of a password. NIST SP 800-63B allows no smaller limit."""
_GUESSED_HERE = (
    "p@ssword", "00000000", "administrator", "admin1234", "testhide", "testhide1", "testhide123", "testhide1234"
)  # fmt: skip
"""Passwords, in lower case, that somebody would guess but that are not in the list of breached passwords."""


def find_weakness(password: str) -> str | None:
    """Returns why the password is easy to guess, or None for a good password. The text continues the words "it is":
    `shorter than 8 characters`.
    """
    if len(password) < MIN_LENGTH:
        return f"shorter than {MIN_LENGTH} characters"
    return "one of the commonest passwords" if password.casefold() in _commonest() else None


@cache
def _commonest() -> frozenset[str]:
    """Returns, in lower case, the commonest breached passwords that have at least MIN_LENGTH characters (11,600 of
    30,000), and the passwords in `_GUESSED_HERE`.
    """
    # Loaded for the first new password, since this takes 50 ms. The package's other lists (10 MB) are dropped below.
    from zxcvbn.frequency_lists import FREQUENCY_LISTS

    found = frozenset(word for word in FREQUENCY_LISTS["passwords"] if len(word) >= MIN_LENGTH)
    for name in [name for name in sys.modules if name.partition(".")[0] == "zxcvbn"]:
        del sys.modules[name]
    return found.union(_GUESSED_HERE)


async def hash_password(password: str) -> str:
    """Returns the Argon2 hash as text, with the parameters and the salt. Raises Unavailable when MAX_WAITING other
    passwords are being hashed or wait for a thread.
    """
    return await _run(_hasher.hash, password)


async def verify_password(password_hash: str, password: str) -> bool:
    """Returns whether the password has this hash. Raises Unavailable when MAX_WAITING other passwords are being
    hashed or wait for a thread.

    For an unknown user, or a user without a password, pass an empty hash. No password matches the empty hash. The check
    takes as long as any other, so that its duration does not reveal which users exist.
    """
    return await _run(_matches, password_hash, password)


async def _run(work: Callable[..., T], *arguments: str) -> T:
    """Runs Argon2 on a thread. Raises Unavailable when MAX_WAITING calls are running or waiting."""
    global _waiting
    if _waiting >= MAX_WAITING:
        raise Unavailable("Too many passwords are being checked at once; try again in a second.")
    _waiting += 1
    try:
        return await asyncio.get_running_loop().run_in_executor(_threads(), work, *arguments)
    finally:
        _waiting -= 1


def _matches(password_hash: str, password: str) -> bool:
    try:
        return _hasher.verify(password_hash or _nobodys(), password) and bool(password_hash)
    except (VerificationError, InvalidHashError):
        return False


@cache
def _nobodys() -> str:
    return _hasher.hash(os.urandom(16))


@cache
def _threads() -> ThreadPoolExecutor:
    return ThreadPoolExecutor(max_workers=os.cpu_count() or 1, thread_name_prefix="passwords")
