"""Rotates the secret key: finds the old and the new key, and stores the new one where processes read it at their
start.
"""

import os
from collections.abc import AsyncIterator, Mapping, Sequence
from contextlib import asynccontextmanager
from pathlib import Path
from typing import NamedTuple

import msgspec
from psycopg import AsyncConnection, OperationalError

from commands.audit import NoteRotation
from commands.handler import CommandContext, Handler
from domain.audit import StoredRootKey
from store.clock import utcnow
from store.key_ring.ring import opener_of
from store.key_ring.rotation import (
    LOCK,
    OnProgress,
    RotationRefused,
    add_root,
    fetch_openers,
    fetch_wrapped_roots,
    move_values,
    remove_old_keys,
    use_root,
)
from store.postgres.connection_settings import with_keepalive
from store.postgres.queries import fetch_row
from testhide.engines.folder import NEXT_SECRET_KEY, SECRET_KEY
from testhide.operator_errors import Fault
from testhide.operator_name import find_operator
from testhide.processes import core
from testhide.settings import Settings, key_from_environment, load_settings, make_key, read_key, save_settings

HOW_TO = (
    "Set TESTHIDE_SECRET_KEY to a new key and TESTHIDE_OLD_SECRET_KEY to the one in use, or their _FILE or _COMMAND,"
    " and run this again (docs/backup.md, Rotating the secret key)."
)


class Rotated(NamedTuple):
    is_done_before: bool
    """Whether there was nothing to rotate, since no key but the new one opened the database."""
    unreadable: dict[str, int]
    """Kind of data -> number of values that neither key opens. They could not be opened before the rotation either."""


async def rotate(settings: Settings, environ: Mapping[str, str], *, leaked: bool, on_progress: OnProgress) -> Rotated:
    """Rotate the secret key of a running or stopped server, or complete an interrupted rotation. Raises Fault if there
    is no new key, if another rotation is running, or if the rotation cannot be completed.
    """
    given, old = key_from_environment("secret_key", environ), key_from_environment("old_secret_key", environ)
    old = old or settings.old_secret_key
    if old:
        settings = msgspec.structs.replace(settings, secret_key=given or settings.secret_key, old_secret_key=old)
        async with _only_rotation(settings):
            return await _rotate(settings, None, leaked=leaked, on_progress=on_progress)
    file = Path(settings.data_dir, SECRET_KEY)
    if given or (key := read_key(file)) is None:
        raise Fault(f"There is no new key. {HOW_TO}", 2)
    # The two keys differ if the last rotation was interrupted after it had replaced the file.
    settings = msgspec.structs.replace(settings, secret_key=key, old_secret_key=settings.secret_key)
    async with _only_rotation(settings):
        if read_key(file) != key:
            raise Fault("Another rotation has replaced the secret key just now. To replace it again, run this again.")
        return await _rotate(settings, file, leaked=leaked, on_progress=on_progress)


async def _rotate(settings: Settings, file: Path | None, *, leaked: bool, on_progress: OnProgress) -> Rotated:
    """Rotate to `settings.secret_key` or, with `file`, to a new key that replaces the one in this file. Raises Fault if
    the rotation cannot be completed.
    """
    keys = settings.secret_keys
    if len(set(keys)) == 1 and file is None:
        raise Fault(f"TESTHIDE_SECRET_KEY and TESTHIDE_OLD_SECRET_KEY are the same. {HOW_TO}", 2)
    async with core(settings, pool_size=2) as parts, parts.pool.connection() as connection:
        if file is not None:
            keys = [await _find_new_key(connection, file), *keys]
        try:
            if not await add_root(connection, parts.secrets, keys):
                return Rotated(is_done_before=True, unreadable={})
            await use_root(connection, is_leaked=leaked)
            unreadable = await move_values(connection, parts.secrets, on_progress)
        except RotationRefused as error:
            raise Fault(f"The rotation is not complete: {error}.") from None
        root_keys = tuple(StoredRootKey(*columns) for columns in await fetch_wrapped_roots(connection, keys[0]))
        note = NoteRotation(leaked, find_operator(), opener_of(keys[0]), root_keys)
        await Handler(parts.log, utcnow).execute(note, CommandContext("system:operator"))
        _store_key(settings, keys, file)
        await remove_old_keys(connection, keys[0])
    return Rotated(is_done_before=False, unreadable=unreadable)


@asynccontextmanager
async def _only_rotation(settings: Settings) -> AsyncIterator[None]:
    """Hold a lock until the block ends, so that no other rotation runs meanwhile. A second rotation could make the new
    key of this rotation useless. Raises Fault if another rotation is running.
    """
    try:
        connection = await AsyncConnection.connect(with_keepalive(settings.database_url), autocommit=True)
    except OperationalError:
        raise Fault("The database cannot be reached.") from None
    async with connection:
        query = "SELECT pg_try_advisory_lock(hashtextextended(%s, 0))"
        if await fetch_row(connection, query, (LOCK,)) != (True,):
            raise Fault("Another rotation of the secret key is running.")
        yield


async def _find_new_key(connection: AsyncConnection, file: Path) -> bytes:
    """Return the new secret key of a rotation. If a rotation was interrupted, this is its new key: it is in a file
    beside `file` or, if the rotation had replaced `file` already, in `file`. Otherwise make a new key, and store it in
    the file beside `file`.
    """
    if key := read_key(file.with_name(NEXT_SECRET_KEY)):
        return key
    key = read_key(file)
    if key is not None and len(openers := await fetch_openers(connection)) > 1 and opener_of(key) in openers:
        return key  # the last rotation had replaced the file already
    return make_key(file.with_name(NEXT_SECRET_KEY))


def _store_key(settings: Settings, keys: Sequence[bytes], file: Path | None) -> None:
    """Store the new secret key, `keys[0]`, where processes read it at their start: in `file` if it is given, and in the
    saved settings of a stack if the stack uses this database.
    """
    if file is not None and (fresh := file.with_name(NEXT_SECRET_KEY)).exists():
        fresh.replace(file)
        folder = os.open(file.parent, os.O_RDONLY)
        os.fsync(folder)
        os.close(folder)
    stack = Path(settings.data_dir, "run", "settings.json")
    if stack.exists():
        kept = load_settings({"TESTHIDE_SETTINGS": str(stack)})
        # These may be the settings of another stack, which does not use the database of the environment.
        if kept.secret_key in keys and (file is not None or kept.database_url == settings.database_url):
            save_settings(msgspec.structs.replace(kept, secret_key=keys[0], old_secret_key=b""), stack)
