"""Blobs: what the contract in `integrations.ports` says, for the disk and for S3."""

import asyncio
import contextlib
import os
import shutil
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from pathlib import Path
from uuid import uuid4

import pytest
import requests
from hypothesis import given, settings
from hypothesis import strategies as st

from domain.core.errors import Unavailable
from integrations.blobs import PART, open_blobs
from integrations.ports import BlobMissing, Blobs
from tests.support.server import free_port

KEY = "builds/7/artifacts/201"
pytestmark = pytest.mark.anyio


@pytest.fixture(scope="session", name="s3")
def _s3() -> Iterator[str]:
    """The address of an S3 server."""
    program = shutil.which("moto_server", path=f"{Path(sys.executable).parent}{os.pathsep}{os.environ['PATH']}")
    if program is None:
        pytest.skip("needs moto_server: pip install 'moto[server]'")
    port = free_port()
    with subprocess.Popen([program, "-p", str(port)], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL) as moto:
        try:
            url = f"http://127.0.0.1:{port}"
            while not _is_up(url):
                assert moto.poll() is None, "moto_server does not start"
            yield url
        finally:
            moto.kill()


def _is_up(url: str) -> bool:
    try:
        return requests.put(f"{url}/bucket", timeout=5).status_code == 200
    except requests.ConnectionError:
        time.sleep(0.05)  # between two looks
        return False


def s3_variables(url: str) -> dict[str, str]:
    return {
        "AWS_ENDPOINT_URL": url,
        "AWS_ALLOW_HTTP": "true",
        "AWS_ACCESS_KEY_ID": "x",
        "AWS_SECRET_ACCESS_KEY": "x",
        "AWS_REGION": "us-east-1",
    }


@pytest.fixture(params=["disk", "s3"])
def blobs(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Blobs:
    if request.param == "disk":
        return open_blobs((tmp_path / "blobs folder").as_uri())
    for name, value in s3_variables(request.getfixturevalue("s3")).items():
        monkeypatch.setenv(name, value)
    return open_blobs(f"s3://bucket/{uuid4().hex}")


async def chunks(*parts: bytes) -> AsyncIterator[bytes]:
    for part in parts:
        yield part


async def content(blobs: Blobs, key: str = KEY, start: int = 0, end: int | None = None) -> bytes:
    return b"".join([chunk async for chunk in await blobs.get(key, start, end)])


async def test_what_is_put_can_be_got(blobs: Blobs) -> None:
    await blobs.put(KEY, chunks(b"hello ", b"", b"world"))
    assert await content(blobs) == b"hello world"
    assert await blobs.size(KEY) == 11


async def test_ranges(blobs: Blobs) -> None:
    await blobs.put(KEY, chunks(b"0123456789"))
    assert await content(blobs, start=3) == b"3456789"
    assert await content(blobs, start=3, end=5) == b"34"
    assert await content(blobs, end=1) == b"0"
    assert await content(blobs, start=4, end=4) == b""


async def test_empty_blobs(blobs: Blobs) -> None:
    await blobs.put(KEY, chunks())
    assert await blobs.size(KEY) == 0
    assert await content(blobs) == b""
    assert await content(blobs, end=0) == b""


async def test_many_parts(blobs: Blobs) -> None:
    part = os.urandom(1024 * 1024)
    await blobs.put(KEY, chunks(*[part] * 12))
    assert await blobs.size(KEY) == 12 * len(part) > 2 * PART
    assert await content(blobs, start=len(part) - 3, end=len(part) + 3) == part[-3:] + part[:3]
    assert await content(blobs) == part * 12


async def test_a_put_replaces(blobs: Blobs) -> None:
    await blobs.put(KEY, chunks(b"old"))
    await blobs.put(KEY, chunks(b"newer"))
    assert await content(blobs) == b"newer"


async def test_a_put_that_fails_changes_nothing(blobs: Blobs, tmp_path: Path) -> None:
    async def breaks() -> AsyncIterator[bytes]:
        yield b"x" * (PART + 1)
        raise KeyError("ours")

    for before in (None, b"old"):
        if before is not None:
            await blobs.put(KEY, chunks(before))
        with pytest.raises(KeyError, match="ours"):
            await blobs.put(KEY, breaks())
        if before is None:
            with pytest.raises(BlobMissing):
                await blobs.size(KEY)
        else:
            assert await content(blobs) == before
    assert [path.name for path in tmp_path.rglob("*#*")] == []


async def test_a_cancelled_put_changes_nothing(blobs: Blobs, tmp_path: Path) -> None:
    begun = asyncio.Event()

    async def endless() -> AsyncIterator[bytes]:
        while True:
            begun.set()
            yield b"x" * 65_536
            await asyncio.sleep(0)

    putting = asyncio.create_task(blobs.put(KEY, endless()))
    await begun.wait()
    putting.cancel()
    with contextlib.suppress(asyncio.CancelledError):
        await putting
    with pytest.raises(BlobMissing):
        await blobs.size(KEY)


async def test_what_is_missing(blobs: Blobs) -> None:
    for missing in (blobs.get(KEY), blobs.get(KEY, 1, 1), blobs.size(KEY)):
        with pytest.raises(BlobMissing):
            await missing
    await blobs.delete(KEY)
    await blobs.delete_prefix("builds/7")


async def test_delete(blobs: Blobs) -> None:
    await blobs.put(KEY, chunks(b"x"))
    await blobs.delete(KEY)
    with pytest.raises(BlobMissing):
        await blobs.size(KEY)


async def test_a_prefix_is_a_folder(blobs: Blobs) -> None:
    for key in ("builds/7/a", "builds/7/b/c", "builds/70/a", "builds/8/a"):
        await blobs.put(key, chunks(b"x"))
    counts: list[tuple[int, int]] = []
    await blobs.delete_prefix("builds/7", lambda deleted, total: counts.append((deleted, total)))
    assert counts == [(1, 2), (2, 2)]
    for key in ("builds/7/a", "builds/7/b/c"):
        with pytest.raises(BlobMissing):
            await blobs.size(key)
    assert [await blobs.size(key) for key in ("builds/70/a", "builds/8/a")] == [1, 1]


@settings(max_examples=30, deadline=None)
@given(data=st.binary(max_size=200), start=st.integers(0, 250), length=st.integers(0, 250))
def test_a_range_is_a_slice(tmp_path_factory: pytest.TempPathFactory, data: bytes, start: int, length: int) -> None:
    start = min(start, max(0, len(data) - 1))

    async def sliced() -> bytes:
        blobs = open_blobs(tmp_path_factory.mktemp("blobs").as_uri())
        await blobs.put(KEY, chunks(data))
        return await content(blobs, start=start, end=start + length) if data else b""

    assert asyncio.run(sliced()) == data[start : start + length]


async def test_a_store_that_is_away(monkeypatch: pytest.MonkeyPatch) -> None:
    for name, value in s3_variables("http://127.0.0.1:9").items():
        monkeypatch.setenv(name, value)
    blobs = open_blobs("s3://bucket")
    with pytest.raises(Unavailable):
        await asyncio.wait_for(blobs.put(KEY, chunks(b"x")), 60)


@pytest.mark.parametrize("url", ["ftp://x/y", "https://example.com/", "nonsense", ""])
async def test_urls_that_name_no_store(url: str) -> None:
    with pytest.raises(ValueError, match="blob store"):
        open_blobs(url)
