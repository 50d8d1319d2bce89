"""Prepares a server before its first process starts: tables, the first administrator, the local agent's node."""

import asyncio
import contextlib
import secrets as random
from pathlib import Path

import psycopg
from psycopg import AsyncConnection

from commands.handler import CommandContext, Handler
from commands.nodes import RegisterNode, UpdateNode
from commands.users import register_user
from domain.claims import CLAIM
from projections.engine.inspection import create_on_empty_log
from projections.registry import PROJECTIONS
from store.clock import utcnow
from store.crypto.passwords import find_weakness
from store.crypto.secrets import new_token, token_hash
from store.migrations.runner import NewerSchema
from store.migrations.runner import migrate as migrate_store
from testhide.operator_errors import Fault
from testhide.processes import core
from testhide.settings import Settings
from testhide.version import VERSION

FIRST_START = CommandContext("system:first-start")
START = CommandContext("system:start")


def upgrade(settings: Settings) -> None:
    """Upgrade the log and all other tables that are not read models to this release. Raises Fault if the database
    cannot be used, or if a newer release has migrated it.
    """

    async def check() -> None:
        async with core(settings, pool_size=1, before_migration=True):
            pass

    asyncio.run(check())
    try:
        migrate_store(settings.database_url, VERSION)
    except NewerSchema as error:
        raise Fault(str(error)) from None
    _add_pgvector(settings)


def _add_pgvector(settings: Settings) -> None:
    """Adds the extension pgvector to the database if PostgreSQL has its files and lets this user do so. Without
    pgvector, semantic search compares only words.
    """
    with psycopg.connect(settings.database_url, autocommit=True) as connection:
        available = connection.execute(
            "SELECT FROM pg_available_extensions WHERE name = 'vector' AND installed_version IS NULL"
        )
        if available.fetchone() is not None:
            with contextlib.suppress(psycopg.errors.InsufficientPrivilege, psycopg.errors.UniqueViolation):
                connection.execute("CREATE EXTENSION IF NOT EXISTS vector")


def migrate(settings: Settings) -> list[str]:
    """Upgrade all tables that are not read models. If the log is empty, create the tables of the read models. Otherwise
    return the names of the read models that must be built from the log. Raises Fault if the database cannot be used, if
    a newer release has migrated it, or if tables are lost.
    """
    upgrade(settings)

    async def read_tables() -> list[str]:
        async with core(settings, pool_size=1):
            pass  # raises Fault if tables are lost
        async with await AsyncConnection.connect(settings.database_url, autocommit=True) as connection:
            return [projection.name for projection in await create_on_empty_log(connection, PROJECTIONS)]

    return asyncio.run(read_tables())


async def has_users(settings: Settings) -> bool:
    async with core(settings, pool_size=1) as parts:
        return bool(await parts.log.read(0, 1, ["user.registered"]))


async def create_first_admin(settings: Settings) -> str | None:
    """Register an administrator if the log contains no user. Works without a projector, since it reads the log.

    Returns a line for the operator: the generated password, or that the configured password is not used. Returns None
    if there is nothing to say. Raises Fault if the configured password is weak.
    """
    async with core(settings, pool_size=1) as parts:
        if await parts.log.read(0, 1, ["user.registered"]):
            if not settings.admin_password:
                return None
            return "TESTHIDE_ADMIN_EMAIL and TESTHIDE_ADMIN_PASSWORD are not applied: there are users already."
        if settings.admin_password and (why := find_weakness(settings.admin_password)):
            raise Fault(f"TESTHIDE_ADMIN_PASSWORD is {why}: choose another one.", 2)
        password = settings.admin_password or random.token_urlsafe(12)
        await register_user(
            Handler(parts.log, utcnow),
            parts.ids,
            parts.secrets,
            FIRST_START,
            email=settings.admin_email,
            password=password,
            role="admin",
        )
    if settings.admin_password:
        return None
    return f"first administrator: {settings.admin_email}  password: {password}  (shown once)"


async def register_local_node(settings: Settings, *, admins_only: bool) -> str:
    """Returns the token of the local agent's node. Registers the node if it does not exist. With `admins_only`, the
    node runs only builds that an admin has queued; without it, the node runs all builds.

    Raises Fault if the node exists but the data folder does not contain its token.
    """
    token_file = Path(settings.data_dir, "agent", "token")
    async with core(settings, pool_size=1) as parts:
        claim = parts.secrets.claim("node-name", "local")
        handler = Handler(parts.log, utcnow)
        if owner := (await parts.log.load_state(CLAIM.at(claim))).owner:
            try:
                token = token_file.read_text().strip()
            except FileNotFoundError:
                raise Fault(
                    f"There already is a node called 'local', and its token is not in {token_file}:"
                    " start with --no-agent, or delete the node by DELETE /api/v3/nodes/{id}."
                ) from None
            node_id = int(owner.removeprefix("node-"))
            await handler.execute(UpdateNode(node_id, admins_only=admins_only), START)
            return token
        token = new_token("agt_")
        await handler.execute(
            RegisterNode(
                node_id=await parts.ids.draw("nodes"),
                title="local",
                claim=claim,
                token_hash=token_hash(token),
                pool_id=None,
                max_parallel=2,
                admins_only=admins_only,
            ),
            FIRST_START,
        )
        return token
