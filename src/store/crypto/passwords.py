"""Password hashing with Argon2id, on a thread pool with one thread for each processor."""

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache

from argon2 import PasswordHasher, Type
from argon2.exceptions import InvalidHashError, VerificationError

# The parameters that OWASP recommends for Argon2id: 19 MiB, two passes, one lane. They take about 20 ms.
_hasher = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1, type=Type.ID)


async def hash_password(password: str) -> str:
    """Returns the hash in Argon2's text encoding, which includes the parameters and the salt."""
    return await asyncio.get_running_loop().run_in_executor(_threads(), _hasher.hash, password)


async def verify_password(password_hash: str, password: str) -> bool:
    """Tells whether the password has this hash.

    An empty hash, for an unknown user or one without a password, matches nothing and takes the same time.
    """
    return await asyncio.get_running_loop().run_in_executor(_threads(), _matches, password_hash, password)


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
