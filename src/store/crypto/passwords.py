"""Passwords: hashed with Argon2id on threads of their own, as many as there are processors."""

import asyncio
import os
from concurrent.futures import ThreadPoolExecutor
from functools import cache

from argon2 import PasswordHasher, Type
from argon2.exceptions import InvalidHashError, VerificationError

# OWASP's parameters for Argon2id: 19 MiB, two passes, one lane; about 20 ms.
_hasher = PasswordHasher(time_cost=2, memory_cost=19 * 1024, parallelism=1, type=Type.ID)


async def hashed(password: str) -> str:
    """In Argon2's usual encoding."""
    return await asyncio.get_running_loop().run_in_executor(_threads(), _hasher.hash, password)


async def matches(password_hash: str, password: str) -> bool:
    """`password_hash` is empty for nobody, or a user without a password: no, after the same work."""
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
