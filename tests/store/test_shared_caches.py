"""Shared caches of builds: the quota of a project, and what becomes of a cache whose job is deleted meanwhile."""

import pytest

from store.tables.shared_caches import CacheName, CacheQuota, SharedCaches
from testhide.processes import Core

PROJECT = 3
SIZE, QUOTA = 10_000, 30_000
ADMINS = CacheQuota("3-admins", QUOTA)


@pytest.fixture
def caches(parts: Core) -> SharedCaches:
    return SharedCaches(parts.pool)


def name(digest: str, scope: str = "3-admins") -> CacheName:
    return CacheName(7, scope, 0, digest)


async def keep(caches: SharedCaches, digest: str, size: int = SIZE, scope: str = "3-admins") -> str:
    quota = CacheQuota("-".join(scope.split("-")[:2]), QUOTA)
    blob = await caches.begin(PROJECT, name(digest, scope), size, "ab", quota)
    assert await caches.complete(PROJECT, blob)
    return blob


async def test_those_that_were_used_longest_ago_go_first(caches: SharedCaches) -> None:
    kept = {digest: await keep(caches, digest) for digest in "abc"}
    await keep(caches, "z", scope="3-untrusted")
    assert await caches.find(name("a")) is not None

    await keep(caches, "d")

    assert await caches.list_dropped(PROJECT) == [kept["b"]]
    assert [digest for digest in "abcd" if await caches.find(name(digest))] == ["a", "c", "d"]
    assert await caches.find(name("z", "3-untrusted")) is not None


async def test_all_branches_of_one_trust_share_the_quota(caches: SharedCaches) -> None:
    scopes = [f"3-members-{branch}" for branch in ("main", "one", "two", "three")]
    blobs = [await keep(caches, "a", scope=scope) for scope in scopes]

    assert await caches.list_dropped(PROJECT) == blobs[:1]
    assert [scope for scope in scopes if await caches.find(name("a", scope))] == scopes[1:]


async def test_small_caches_count_as_a_block(caches: SharedCaches) -> None:
    for digest in "abcdefgh":
        await keep(caches, digest, size=1)

    assert len(await caches.list_dropped(PROJECT)) == 8 - QUOTA // 4096


async def test_a_cache_is_found_only_when_it_is_whole(caches: SharedCaches) -> None:
    first = await keep(caches, "a")
    second = await caches.begin(PROJECT, name("a"), SIZE, "cd", ADMINS)
    found = await caches.find(name("a"))
    assert found is not None
    assert found.blob == first

    assert await caches.complete(PROJECT, second)

    found = await caches.find(name("a"))
    assert found == (second, SIZE, "cd")
    assert await caches.list_dropped(PROJECT) == [first]
    await caches.forget(first)
    assert await caches.list_dropped(PROJECT) == []


async def test_of_two_that_are_written_at_once_the_last_one_stays(caches: SharedCaches) -> None:
    first = await caches.begin(PROJECT, name("a"), SIZE, "ab", ADMINS)
    second = await caches.begin(PROJECT, name("a"), SIZE, "cd", ADMINS)
    assert await caches.complete(PROJECT, second)
    assert await caches.complete(PROJECT, first)

    found = await caches.find(name("a"))
    assert found is not None
    assert found.blob == first
    assert await caches.list_dropped(PROJECT) == [second]


async def test_a_cache_whose_job_is_deleted_meanwhile_is_not_kept(caches: SharedCaches) -> None:
    blob = await caches.begin(PROJECT, name("a"), SIZE, "ab", ADMINS)
    await keep(caches, "b")
    await caches.delete_job(70)
    assert await caches.find(name("b")) is not None
    await caches.delete_job(7)

    assert not await caches.complete(PROJECT, blob)
    assert await caches.find(name("b")) is None
