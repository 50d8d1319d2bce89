"""The secret key is rotated while processes run: they go on, and afterwards the old key opens nothing."""

import asyncio
import contextlib
import itertools
from collections.abc import Callable, Sequence
from functools import partial

import psycopg
import pytest

from commands.handler import CommandContext, Handler
from commands.jobs import ConfigureJob, CreateJob
from commands.projects import CreateProject
from commands.webhooks import RegisterWebhook
from domain.audit import ROTATIONS, SecretKeyRotated
from domain.jobs import JOB
from projections.engine.inspection import create_on_empty_log
from projections.engine.projector import catch_up
from projections.projects import ProjectRow
from projections.registry import PROJECTIONS
from projections.webhooks import WebhookRow
from store.audit.checkpoints import AuditTree
from store.audit.root_key_checks import find_ring_damage
from store.clock import utcnow
from store.crypto.secrets import RootKey, SecretMismatch, Secrets
from store.key_ring import ring, rotation
from store.key_ring.ring import FOLLOWER_LOCK, insert_wraps, keep_known, load_roots
from store.log.ids import fetch_last_position
from store.log.row_macs import has_right_mac
from store.postgres.notifications import ROOT_KEYS, Listener
from store.postgres.queries import execute, fetch_rows
from store.tables.idempotent_responses import IdempotentResponses, StoredResponse
from testhide.operator_errors import Fault
from testhide.operator_name import find_operator
from testhide.processes import Core, core
from testhide.secret_rotation import rotate
from testhide.settings import Settings

OLD, NEW, NEXT = b"s" * 32, b"n" * 32, b"m" * 32
ANN = CommandContext("user:1")


def settings(database: str, key: bytes, old: bytes = b"", data: str = "") -> Settings:
    return Settings(database_url=database, redis_url="", secret_key=key, old_secret_key=old, data_dir=data)


async def fill(parts: Core) -> None:
    """A project, a job and a webhook with secrets, and a stored response."""
    async with parts.pool.connection() as connection:
        await create_on_empty_log(connection, PROJECTIONS)
    seal, handler = parts.secrets.seal, Handler(parts.log, utcnow)
    for command in (
        CreateProject(1, "P", 1, (("p", "s"),), seal("of a project")),
        CreateJob(1, 1, "Smoke"),
        ConfigureJob(1, "pytest", secrets={"TOKEN": seal("of a job")}),
        RegisterWebhook(1, 1, "https://example.com", ("build.finished",), sealed_secret=seal("of a webhook")),
    ):
        await handler.execute(command, ANN)
    responses = IdempotentResponses(parts.pool, parts.secrets)
    await execute(parts.pool, "INSERT INTO stored_events_once VALUES ('scope', '', 1)")
    await responses.store(b"scope", StoredResponse(201, {}, b"of a request"), None)
    await project(parts)


async def project(parts: Core) -> None:
    async with parts.pool.connection() as connection:
        await catch_up(connection, parts.log, PROJECTIONS, await parts.log.read_head())


async def read_secrets(parts: Core) -> list[str]:
    unseal = parts.secrets.unseal
    job = await parts.log.load_state(JOB.at(1))
    ((project,),) = await fetch_rows(parts.pool, f"SELECT sealed_webhook_secret FROM {ProjectRow.table}")
    ((webhook,),) = await fetch_rows(parts.pool, f"SELECT sealed_secret FROM {WebhookRow.table}")
    found = await IdempotentResponses(parts.pool, parts.secrets).find(b"scope")
    assert job is not None
    assert found is not None
    assert found.answer is not None
    return [unseal(job.configuration.secrets["TOKEN"]), unseal(project), unseal(webhook), found.answer.body.decode()]


SECRETS = ["of a job", "of a project", "of a webhook", "of a request"]


async def rotate_to(database: str, key: bytes, old: bytes, *, leaked: bool = False) -> None:
    assert not (await rotate(settings(database, key, old), {}, leaked=leaked, on_progress=lambda *_: None)).unreadable


async def must_refuse(database: str, key: bytes) -> None:
    with pytest.raises(Fault, match="The secret key does not open what is in the database"):
        async with core(settings(database, key)):
            pass


def opens_nothing(database: str, secrets: Secrets) -> bool:
    """Whether these secrets open nothing of what the tables have."""
    with psycopg.connect(database) as connection:
        sealed = connection.execute(
            f"SELECT sealed_webhook_secret FROM {ProjectRow.table} UNION ALL SELECT sealed_secret"
            f" FROM {WebhookRow.table}".encode()
        ).fetchall()
        keys = connection.execute("SELECT name, wrapped FROM stored_events_keys WHERE name !~ '/'").fetchall()
        answers = connection.execute("SELECT scope, answer FROM stored_events_once").fetchall()
    assert sealed
    assert keys
    assert answers
    opened: list[object] = []
    sealers: Sequence[tuple[bytes, Callable[[bytes], object]]] = (
        *((value, secrets.unseal) for (value,) in sealed),
        *((value, partial(secrets.unwrap, name)) for name, value in keys),
        *((value, partial(secrets.unseal_response, scope)) for scope, value in answers),
    )
    for value, unseal in sealers:
        with contextlib.suppress(SecretMismatch):
            opened.append(unseal(value))
    return not opened


async def test_a_running_process_goes_on_and_the_old_key_opens_nothing(parts: Core, database: str) -> None:
    await fill(parts)
    before = Secrets(list(parts.secrets.roots.values()))
    await rotate_to(database, NEW, OLD)
    assert parts.secrets.newest == before.newest + 1
    assert await read_secrets(parts) == SECRETS
    assert opens_nothing(database, before)
    await must_refuse(database, OLD)
    async with core(settings(database, NEW)) as restarted:
        assert await read_secrets(restarted) == SECRETS
        handler = Handler(restarted.log, utcnow)
        await handler.execute(ConfigureJob(1, "pytest", secrets={"TOKEN": restarted.secrets.seal("of a job")}), ANN)
    assert await read_secrets(parts) == SECRETS
    await rotate_to(database, NEXT, NEW, leaked=True)
    assert await read_secrets(parts) == SECRETS
    assert [root.is_leaked for root in parts.secrets.roots.values()] == [True, True, False]
    await must_refuse(database, NEW)


async def test_each_rotation_is_an_event_which_says_who_and_what_leaked(parts: Core, database: str) -> None:
    await rotate_to(database, NEW, OLD)
    limit = parts.secrets.roots[1].last_position
    await rotate_to(database, NEXT, NEW, leaked=True)
    first, second = (await parts.log.load([ROTATIONS.name]))[ROTATIONS.name]
    for recorded, leaked in ((first, False), (second, True)):
        event = recorded.event
        assert isinstance(event, SecretKeyRotated)
        assert (event.is_leaked, event.operator, event.actor) == (leaked, find_operator(), "system:operator")
        assert [(root.id, root.is_leaked) for root in event.root_keys[:-1]] == [
            (root.id, leaked) for root in event.root_keys[:-1]
        ]
        newest = event.root_keys[-1]
        assert (newest.id, newest.last_position, newest.is_leaked) == (len(event.root_keys), None, False)
        assert event.root_keys[0].last_position == limit


async def test_the_secret_key_of_a_log_of_a_release_without_root_keys_opens_nothing_afterwards(database: str) -> None:
    old = Secrets.without_ring(OLD)
    async with core(settings(database, OLD)) as parts:
        # As a log that was begun before: the first root key is the secret key itself.
        async with parts.pool.connection() as connection:
            await connection.execute("DELETE FROM root_keys")
            await connection.execute("DELETE FROM root_key_wraps")
        parts.secrets.replace(old.roots.values())
        await fill(parts)
    async with core(settings(database, OLD)) as parts:
        assert list(parts.secrets.roots) == [0]
        assert await read_secrets(parts) == SECRETS
        await rotate_to(database, NEW, OLD)
        assert await read_secrets(parts) == SECRETS
        assert opens_nothing(database, old)
        claim = parts.secrets.claim("email", "ann@example.com")
    await must_refuse(database, OLD)
    assert claim == old.claim("email", "ann@example.com")


async def test_read_models_are_built_from_the_log_as_they_were_rotated(parts: Core, database: str) -> None:
    await fill(parts)
    await rotate_to(database, NEW, OLD)
    query = f"SELECT sealed_webhook_secret FROM {ProjectRow.table}"
    rotated = await fetch_rows(parts.pool, query)
    (event,) = await parts.log.read(0, 1, ["project.created"])
    assert rotated == [(event.event.sealed_webhook_secret,)]  # type: ignore[attr-defined]


async def test_rows_have_macs_by_the_key_of_their_time(parts: Core, database: str) -> None:
    await fill(parts)
    older = parts.secrets.rows_key
    await rotate_to(database, NEW, OLD)
    head, last = await parts.log.read_head(), await fetch_last_position(parts.pool)
    row = await AuditTree(parts.pool).row(head)
    assert row is not None
    async with core(settings(database, NEW)) as restarted:
        for secrets in (parts.secrets, restarted.secrets):
            assert has_right_mac(secrets.rows_keys(head), row)
            assert older not in secrets.rows_keys(last + 1)


async def test_rows_whose_macs_are_made_when_the_key_changes_are_accepted_and_no_later_ones(
    parts: Core, database: str
) -> None:
    await fill(parts)
    older, handler, ids = parts.secrets.rows_key, Handler(parts.log, utcnow), itertools.count(2)
    is_over = asyncio.Event()

    async def append() -> None:
        while not is_over.is_set():
            await handler.execute(CreateProject(number := next(ids), "P", 1, (("p", f"p{number}"),), b""), ANN)

    appending = [asyncio.create_task(append()) for _ in range(4)]
    await rotate_to(database, NEW, OLD)
    is_over.set()
    await asyncio.gather(*appending)
    tree = AuditTree(parts.pool)
    rows = [(at, row) for at in range(1, await parts.log.read_head() + 1) if (row := await tree.row(at))]
    assert all(has_right_mac(parts.secrets.rows_keys(at), row) for at, row in rows)
    last_old = max(at for at, row in rows if has_right_mac([older], row))
    limit = parts.secrets.roots[1].last_position
    assert limit is not None
    assert last_old <= limit < rows[-1][0]


@pytest.mark.parametrize("step", ["use_root", "move_values", "remove_old_keys"])
async def test_an_interrupted_rotation_goes_on(
    parts: Core, database: str, step: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    await fill(parts)

    async def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    with monkeypatch.context() as context:
        context.setattr(f"testhide.secret_rotation.{step}", die)
        with pytest.raises(KeyboardInterrupt):
            await rotate_to(database, NEW, OLD)
    async with parts.pool.connection() as connection, asyncio.timeout(10):
        while not await rotation.is_interrupted(connection):
            await asyncio.sleep(0.01)  # PostgreSQL ends the session of a process a moment after the process
    for key in (OLD, NEW):
        async with core(settings(database, key)) as started:
            assert await read_secrets(started) == SECRETS
    assert await read_secrets(parts) == SECRETS
    await rotate_to(database, NEW, OLD)
    async with parts.pool.connection() as connection:
        assert not await rotation.is_interrupted(connection)
    await must_refuse(database, OLD)
    assert len(parts.secrets.roots) == 2
    assert (await rotate(settings(database, NEW, OLD), {}, leaked=False, on_progress=lambda *_: None)).is_done_before


async def test_nothing_is_sealed_with_a_root_key_that_a_process_does_not_know(
    parts: Core, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(rotation, "LOAD_TIMEOUT_S", 0.2)
    async with await psycopg.AsyncConnection.connect(database, autocommit=True) as silent:
        await silent.execute("SELECT pg_advisory_lock_shared(%s::int, 1)", (FOLLOWER_LOCK,))
        with pytest.raises(Fault, match="do not take over the new key"):
            await rotate_to(database, NEW, OLD)
        assert parts.secrets.newest == 1
    await rotate_to(database, NEW, OLD)
    assert parts.secrets.newest == 2


@pytest.mark.parametrize("is_lost", [False, True])
async def test_a_process_that_listens_for_other_things_follows_the_ring_on_that_connection(
    parts: Core, database: str, monkeypatch: pytest.MonkeyPatch, is_lost: bool
) -> None:
    """Also after the connection of the ring was lost."""
    monkeypatch.setattr(ring, "POLL_INTERVAL_S", 1_000.0)
    listener = Listener(database, ROOT_KEYS)
    with parts.ring.notified_by(listener):
        await listener.start()
        if is_lost:
            ends = (
                "SELECT pg_terminate_backend(pid) FROM pg_locks JOIN pg_stat_activity USING (pid)"
                " WHERE locktype = 'advisory' AND classid = %s AND datname = current_database()"
            )
            assert await fetch_rows(parts.pool, ends, (FOLLOWER_LOCK,)) == [(True,)]
        await rotate_to(database, NEW, OLD)
        async with asyncio.timeout(10):
            while parts.secrets.newest == 1:
                await asyncio.sleep(0.01)
    await listener.close()


async def test_a_process_that_listens_for_nothing_else_any_more_follows_the_ring_by_itself(
    parts: Core, database: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(ring, "POLL_INTERVAL_S", 1_000.0)
    with parts.ring.notified_by(Listener(database, ROOT_KEYS)):
        pass
    await rotate_to(database, NEW, OLD)
    async with asyncio.timeout(10):
        while parts.secrets.newest == 1:
            await asyncio.sleep(0.01)


async def test_nobody_adds_a_root_key_by_an_older_one(parts: Core, database: str) -> None:
    older = parts.secrets.roots[1]
    await rotate_to(database, NEW, OLD)
    forged = RootKey(id=3, key=b"f" * 32)
    async with parts.pool.connection() as connection:
        await execute(connection, "INSERT INTO root_keys (id) VALUES (3)")
        await insert_wraps(connection, [(forged, "root-1", older.key)])
        newest = parts.secrets.roots[2]
        assert list(parts.secrets.roots) == [1, 2]
        opened = await load_roots(connection, [NEW], {1: older, 2: newest}, 2)
        assert [root.id for root in opened] == [1, 2]
    async with core(settings(database, NEW)) as started:
        assert list(started.secrets.roots) == [1, 2]


@pytest.mark.parametrize(
    ("change", "defect"),
    [
        ("UPDATE root_keys SET last_position = 9000 WHERE id = 1", "1 is not in root_keys as"),
        ("UPDATE root_keys SET last_position = NULL WHERE id = 1", "1 is not in root_keys as"),
        ("UPDATE root_keys SET is_leaked = false WHERE id = 1", "1 is not in root_keys as"),
        ("UPDATE root_keys SET used_since = now() WHERE id = 2", "2 is not in root_keys as"),
        ("UPDATE root_keys SET used_since = NULL WHERE id = 2", "2 is not in root_keys as"),
        ("DELETE FROM root_keys WHERE id = 2", "2 is missing in root_keys"),
        ("DELETE FROM root_key_wraps WHERE root_id = 1", "1 is missing in root_key_wraps"),
        ("UPDATE root_key_wraps SET wrapped = 'x' WHERE root_id = 2", "2 is not in root_key_wraps as"),
    ],
)
async def test_changes_of_the_ring_are_found_and_not_taken_over(
    parts: Core, database: str, change: str, defect: str
) -> None:
    async def find(secrets: Secrets) -> str:
        return await find_ring_damage(parts.pool, parts.log, secrets) or ""

    assert not await find(parts.secrets)
    await rotate_to(database, NEW, OLD, leaked=True)
    assert not await find(parts.secrets)
    before = parts.secrets.roots
    await execute(parts.pool, change)
    assert f"the root key {defect}" in await find(parts.secrets)
    async with parts.pool.connection() as connection:
        with contextlib.suppress(SecretMismatch):
            assert keep_known(before, await load_roots(connection, [NEW], before, 2)) == list(before.values())
    with contextlib.suppress(Fault):
        async with core(settings(database, NEW)) as restarted:
            if restarted.secrets.newest == 2:
                assert f"the root key {defect}" in await find(restarted.secrets)


@pytest.mark.parametrize(
    ("change", "sentence"),
    [
        ("DELETE FROM root_key_wraps WHERE root_id = 1", "the wrap of the root key 1 is missing"),
        ("DELETE FROM root_key_wraps", "the wrap of the root key 1 is missing"),
        ("DELETE FROM root_keys WHERE id = 2", "the root key 2 is missing"),
        ("DELETE FROM root_keys", "the root key 1 is missing"),
        ("UPDATE root_key_wraps SET wrapped = 'x' WHERE root_id = 2", "the wrap of the root key 2 .* was changed"),
        ("UPDATE root_keys SET used_since = NULL", "no root key in root_keys is in use"),
    ],
)
async def test_a_damaged_wrap_is_no_wrong_key(parts: Core, database: str, change: str, sentence: str) -> None:
    await rotate_to(database, NEW, OLD)
    await execute(parts.pool, change)
    with pytest.raises(Fault, match=f"The key ring is damaged: {sentence}"):
        async with core(settings(database, NEW)):
            pass
    assert parts.secrets.newest == 2


async def test_values_that_others_have_locked_are_moved_too(parts: Core, database: str) -> None:
    await fill(parts)
    before = Secrets(list(parts.secrets.roots.values()))
    async with parts.pool.connection() as other, other.transaction():
        await other.execute(f"SELECT FROM {WebhookRow.table} FOR UPDATE".encode())
        rotating = asyncio.create_task(rotate_to(database, NEW, OLD))
        waits = "SELECT FROM pg_locks WHERE NOT granted AND locktype IN ('transactionid', 'tuple')"
        while not rotating.done() and not await fetch_rows(parts.pool, waits):
            await asyncio.sleep(0.01)
    await rotating
    assert opens_nothing(database, before)
    assert await read_secrets(parts) == SECRETS


async def test_what_did_not_open_before_stays_as_it_is(parts: Core, database: str) -> None:
    await fill(parts)
    await execute(parts.pool, "INSERT INTO stored_events_keys VALUES ('user-9', 'damaged')")
    done = await rotate(settings(database, NEW, OLD), {}, leaked=False, on_progress=lambda *_: None)
    assert done.unreadable == {"data keys": 1}
    assert await fetch_rows(parts.pool, "SELECT wrapped FROM stored_events_keys WHERE name = 'user-9'") == [
        (b"damaged",)
    ]


async def test_both_keys_may_be_given_before_during_and_after(parts: Core, database: str) -> None:
    await fill(parts)
    for _ in range(2):
        async with core(settings(database, NEW, OLD)) as started:
            assert await read_secrets(started) == SECRETS
        await rotate(settings(database, NEW, OLD), {}, leaked=False, on_progress=lambda *_: None)
