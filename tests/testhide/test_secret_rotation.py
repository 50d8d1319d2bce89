"""`testhide secrets rotate`: finds the keys, and replaces the key's file; two rotations at a time are one."""

import contextlib
from collections.abc import AsyncIterator, Mapping
from pathlib import Path

import pytest

from store.key_ring.ring import opener_of
from store.postgres.queries import fetch_rows
from testhide import secret_rotation
from testhide.operator_errors import Fault
from testhide.processes import Core, core
from testhide.secret_rotation import rotate
from testhide.settings import Settings, load_settings, read_key, save_settings, write_key
from tests.store.test_key_ring import OLD, SECRETS, fill, must_refuse, read_secrets, settings


async def test_a_file_is_replaced_by_one_with_a_new_key(
    parts: Core, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file, stack = tmp_path / "secret.key", tmp_path / "run" / "settings.json"
    stack.parent.mkdir()
    write_key(file, OLD)
    save_settings(settings(database, OLD, data=str(tmp_path)), stack)
    await fill(parts)

    async def run() -> bytes:
        loaded = load_settings({"TESTHIDE_SETTINGS": str(stack)})
        await rotate(loaded, {}, leaked=False, on_progress=lambda *_: None)
        key = read_key(file)
        assert key is not None
        assert load_settings({"TESTHIDE_SETTINGS": str(stack)}).secret_key == key
        assert file.stat().st_mode & 0o777 == 0o600
        assert {path.name for path in tmp_path.iterdir()} == {"secret.key", "run"}
        return key

    first = await run()
    assert first != OLD
    await must_refuse(database, OLD)

    async def die(*_: object, **__: object) -> None:
        raise KeyboardInterrupt

    for step in ("add_root", "move_values", "remove_old_keys"):
        key = read_key(file)
        with monkeypatch.context() as context:
            context.setattr(f"testhide.secret_rotation.{step}", die)
            with pytest.raises(KeyboardInterrupt):
                await run()
        second = await run()
        assert second != key
        async with core(settings(database, second)) as started:
            assert await read_secrets(started) == SECRETS
            openers = await fetch_rows(started.pool, "SELECT DISTINCT opener FROM root_key_wraps")
            assert openers == [(opener_of(second),)]


@pytest.mark.parametrize(("environ", "sentence"), [({"TESTHIDE_SECRET_KEY": "00" * 32}, "There is no new key")])
async def test_no_new_key_is_said(database: str, environ: Mapping[str, str], sentence: str) -> None:
    with pytest.raises(Fault, match=sentence):
        await rotate(settings(database, OLD), environ, leaked=False, on_progress=lambda *_: None)
    with pytest.raises(Fault, match="are the same"):
        await rotate(settings(database, OLD, OLD), {}, leaked=False, on_progress=lambda *_: None)


async def run(given: Settings) -> None:
    await rotate(given, {}, leaked=False, on_progress=lambda *_: None)


async def test_a_rotation_while_another_one_runs_is_refused(
    parts: Core, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_key(tmp_path / "secret.key", OLD)
    await fill(parts)
    refused: list[str] = []

    async def rotate_meanwhile(*_: object) -> dict[str, int]:
        with pytest.raises(Fault) as error:
            await run(settings(database, OLD, data=str(tmp_path)))
        refused.append(str(error.value))
        return {}

    monkeypatch.setattr(secret_rotation, "move_values", rotate_meanwhile)
    await run(settings(database, OLD, data=str(tmp_path)))
    assert refused == ["Another rotation of the secret key is running."]


async def test_a_rotation_that_began_before_another_one_ended_says_so(
    parts: Core, database: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    write_key(tmp_path / "secret.key", OLD)
    await fill(parts)
    only_rotation = secret_rotation._only_rotation

    @contextlib.asynccontextmanager
    async def after_another(given: Settings) -> AsyncIterator[None]:
        monkeypatch.setattr(secret_rotation, "_only_rotation", only_rotation)
        await run(settings(database, OLD, data=str(tmp_path)))
        async with only_rotation(given):
            yield

    monkeypatch.setattr(secret_rotation, "_only_rotation", after_another)
    with pytest.raises(Fault, match="Another rotation has replaced the secret key just now"):
        await run(settings(database, OLD, data=str(tmp_path)))
    key = read_key(tmp_path / "secret.key")
    assert key is not None
    async with core(settings(database, key)) as started:
        assert await read_secrets(started) == SECRETS
