"""Registers users by the commands themselves, in the process of the tests."""

import asyncio
import contextlib
import os
import threading
from collections.abc import Coroutine, Mapping
from itertools import count
from typing import Any, TypeVar

from msgspec import structs

from api.http.authentication import SESSION_LIFETIME, session_token
from commands.auth import OpenSession
from commands.handler import CommandContext, Handler
from commands.projects import AdmitMember
from commands.users import RegisterUser
from domain.projects import Access
from domain.users import Role
from store.clock import utcnow
from store.crypto.passwords import hash_password
from store.crypto.secrets import new_token
from testhide.processes import Core, core
from testhide.settings import Settings

T = TypeVar("T")

OPEN_S = 30.0
"""Seconds that a step of the registrar may take."""


class Registrar:
    """What a process of the server has, on an event loop of its own, until `close`. To open this for each user would
    take most of the time.

    The loop runs between two calls, too: a rotation of the secret key waits for everybody who has the key ring open.
    """

    def __init__(self, settings: Settings) -> None:
        # Without looks for risks and lost tables.
        self._settings = structs.replace(settings, unsafe=True)
        self._numbers = count()
        self._stack = contextlib.AsyncExitStack()
        self._loop = asyncio.new_event_loop()
        self._thread = threading.Thread(target=self._loop.run_forever, daemon=True)
        self._thread.start()
        try:
            self._parts = self._run(self._open())
        except BaseException:
            self._stop()
            raise

    def register(self, role: Role, access: Mapping[int, Access]) -> tuple[str, int]:
        """Registers a user with this role and these memberships, and signs the user in. Returns the token of the
        session, and the position of the last event. All users have the same password.
        """
        return self._run(self._register(role, access))

    def close(self) -> None:
        try:
            self._run(self._stack.aclose())
        finally:
            self._stop()

    async def _open(self) -> Core:
        self._password_hash = await hash_password("a password of theirs")
        return await self._stack.enter_async_context(core(self._settings, pool_size=1, before_migration=True))

    async def _register(self, role: Role, access: Mapping[int, Access]) -> tuple[str, int]:
        parts = self._parts
        handler, caller = Handler(parts.log, utcnow), CommandContext("system:tests")
        email = f"user{next(self._numbers)}-{os.getpid()}@example.com"
        user_id, claim = await parts.ids.draw("users"), parts.secrets.claim("email", email)
        await handler.execute(RegisterUser(user_id, email, role, self._password_hash, claim), caller)
        for project_id, level in access.items():
            await handler.execute(AdmitMember(project_id, user_id, level), caller)
        session_id, now = new_token(""), utcnow().replace(microsecond=0)
        opened = await handler.execute(
            OpenSession(session_id, user_id, now + SESSION_LIFETIME), CommandContext(f"user:{user_id}")
        )
        assert opened.position is not None
        return session_token(parts.secrets, user_id, session_id, now), opened.position

    def _run(self, step: Coroutine[Any, Any, T]) -> T:
        return asyncio.run_coroutine_threadsafe(step, self._loop).result(OPEN_S)

    def _stop(self) -> None:
        self._loop.call_soon_threadsafe(self._loop.stop)
        self._thread.join()
        self._loop.close()
