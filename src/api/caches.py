"""Operations by which agents share the caches of builds: download, store. docs/agent-protocol.md describes both."""

import hashlib
from typing import Annotated, Any

import structlog
from litestar import Controller, Request, get, put
from litestar.openapi.datastructures import ResponseSpec
from litestar.params import Parameter
from litestar.response import Stream

from api.agents import Attempt
from api.artifacts import read_chunks
from api.http.downloads import DEFAULT_MEDIA_TYPE
from api.http.permissions import Agent, agents_only
from api.http.request_context import RequestContext
from commands.build_assignment import must_hold
from commands.build_caches import CacheScopes, find_cache_scopes
from domain.builds import BUILD, BuildQueued
from domain.core.errors import Conflict, Invalid, NotFound, TooLarge, Unavailable
from domain.jobs import JOB
from domain.nodes import NODE
from integrations.ports import BlobMissing
from store.tables.shared_caches import CacheName, CacheQuota

log = structlog.get_logger()

Digest = Annotated[str, Parameter(pattern=r"^[0-9a-f]{64}\Z", description="SHA-256 of the name of the cache")]


class CacheController(Controller):
    path = "/agent/builds/{build_id:int}/caches"
    tags = ["Agents"]
    opt = {"agents": True}
    guards = [agents_only]

    @get(
        "/{digest:str}",
        media_type=DEFAULT_MEDIA_TYPE,
        responses={200: ResponseSpec(bytes, description="The archive", generate_examples=False)},
        opt={"problems": (Conflict,), "headers": ("ETag",)},
    )
    async def download_cache(
        self,
        ctx: RequestContext,
        build_id: int,
        digest: Digest,
        attempt: Attempt,
        fallback: Annotated[
            bool, Parameter(description="Look in the scope of the job's default branch instead of the build's own")
        ] = False,
    ) -> Stream:
        """Returns the archive of a cache that an earlier build of the same job, pool and cache scope has saved. With
        `fallback`, the scope is that of the job's default branch. The ETag is the SHA-256 of the archive. Answers 404
        if the server has no such cache.
        """
        caches, blobs = ctx.services.caches, ctx.services.blobs
        queued, scopes = await _find_running(ctx, build_id, attempt)
        scope = scopes.fallback if fallback else scopes.primary
        cache = None if scope is None else await caches.find(await _name_cache(ctx, queued.job_id, scope, digest))
        if cache is not None:
            try:
                if await blobs.size(cache.blob) == cache.size_bytes:
                    headers = {"ETag": f'"{cache.sha256}"', "Content-Length": str(cache.size_bytes)}
                    return Stream(await blobs.get(cache.blob), media_type=DEFAULT_MEDIA_TYPE, headers=headers)
            except BlobMissing:
                pass
            await caches.drop(cache.blob)  # it is lost or damaged: the next build saves it again
        raise NotFound("The server has no such cache.")

    @put(
        "/{digest:str}",
        status_code=204,
        request_max_body_size=None,
        opt={"content": {DEFAULT_MEDIA_TYPE: {"type": "string", "format": "binary"}}},
    )
    async def store_cache(
        self,
        request: Request[Agent, Any, Any],
        ctx: RequestContext,
        build_id: int,
        digest: Digest,
        attempt: Attempt,
        sha256: Annotated[str, Parameter(pattern=r"^[0-9a-f]{64}\Z", description="SHA-256 of the archive")],
    ) -> None:
        """Stores the body, an archive, as a cache for later builds of the same job, pool and cache scope. Replaces an
        earlier archive of the same name.
        """
        services = ctx.services
        queued, scopes = await _find_running(ctx, build_id, attempt)
        limit, project_id = services.cache_limit, queued.project_id
        announced = request.headers.get("content-length", "")
        with services.spool.open("cache-") as spooled:
            spooled.project_id = project_id
            hashed = hashlib.sha256()
            _must_fit(int(announced) if announced.isdecimal() else 0, limit)
            async for chunk in request.stream():
                _must_fit(spooled.size + len(chunk), limit)
                hashed.update(chunk)
                spooled.write(chunk)
            spooled.flush()
            if hashed.hexdigest() != sha256:
                raise Invalid.field("sha256", "is not that of the body")
            name = await _name_cache(ctx, queued.job_id, scopes.primary, digest)
            quota = CacheQuota(scopes.trust, services.cache_quota)
            blob = await services.caches.begin(project_id, name, spooled.size, sha256, quota)
            try:
                # Asked again now that the row is there: a deletion of the job either finds the row or is found here.
                await _find_running(ctx, build_id, attempt)
                await services.blobs.put(blob, read_chunks(spooled.path))
                is_kept = await services.caches.complete(project_id, blob)
            except BaseException:
                await services.caches.drop(blob)
                raise
        if not is_kept:
            await services.blobs.delete(blob)
            raise Conflict("The cache is not kept: its job was deleted, or newer caches took its room.")
        await _delete_dropped(ctx, project_id)


async def _find_running(ctx: RequestContext, build_id: int, attempt: int) -> tuple[BuildQueued, CacheScopes]:
    """Returns the build and the scopes of its caches. Raises Conflict or NotFound if the agent's node does not run this
    attempt of the build, and NotFound if the build's job was deleted.
    """
    queued = must_hold(await ctx.services.log.load_state(BUILD.at(build_id)), build_id, ctx.node_id, attempt).queued
    job = await ctx.services.log.load_state(JOB.at(queued.job_id))
    if job is None or job.deleted:
        raise NotFound(f"There is no build {build_id}.")
    return queued, find_cache_scopes(queued, job)


async def _name_cache(ctx: RequestContext, job_id: int, scope: str, digest: str) -> CacheName:
    node = await ctx.services.log.load_state(NODE.at(ctx.node_id))
    pool_id = node.pool_id if node is not None else None
    return CacheName(job_id, scope, pool_id or 0, digest)


def _must_fit(size: int, limit: int) -> None:
    if size > limit:
        raise TooLarge(f"A cache may have at most {limit:,} bytes." if limit else "The server keeps no caches.")


async def _delete_dropped(ctx: RequestContext, project_id: int) -> None:
    """Deletes the blobs of caches that newer caches of the project have replaced. A blob that cannot be deleted now is
    tried again when the next cache is stored.
    """
    try:
        for blob in await ctx.services.caches.list_dropped(project_id):
            await ctx.services.blobs.delete(blob)
            await ctx.services.caches.forget(blob)
    except Unavailable as error:
        log.warning("caches that were replaced are not deleted yet", project=project_id, detail=error.detail)
