"""A server with the OpenAI API that is ours: it answers as a test tells it, and in all ways in which servers fail.

It says nothing about real servers; tests/real/llm talks to one.
"""

import asyncio
import contextlib
import json
from collections import deque
from collections.abc import AsyncIterator, Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from aiohttp import web

Behaviour = Callable[[web.BaseRequest], Awaitable[web.StreamResponse]]


def completes(text: str, tokens: int | None = 321, finish_reason: str = "stop") -> Behaviour:
    """Answers with this text. `tokens` is what it says it has used; None to say nothing."""
    usage = None if tokens is None else {"prompt_tokens": tokens - 21, "completion_tokens": 21, "total_tokens": tokens}
    message = {"role": "assistant", "content": text}
    choice = {"index": 0, "message": message, "finish_reason": finish_reason}
    body = {"id": "x", "object": "chat.completion", "created": 1, "model": "m", "choices": [choice], "usage": usage}
    return answers(200, body)


def answers(status: int, body: Any) -> Behaviour:
    async def behave(request: web.BaseRequest) -> web.StreamResponse:
        return web.json_response(body, status=status)

    return behave


def refuses(status: int, message: str = "no") -> Behaviour:
    return answers(status, {"error": {"message": message, "type": "x", "param": None, "code": None}})


def says(content: bytes, content_type: str = "application/json", **headers: str) -> Behaviour:
    async def behave(request: web.BaseRequest) -> web.StreamResponse:
        return web.Response(body=content, content_type=content_type, headers=headers)

    return behave


async def hangs(request: web.BaseRequest) -> web.StreamResponse:
    """Never answers."""
    await asyncio.Event().wait()
    raise AssertionError


def cuts(status: int = 200) -> Behaviour:
    """Ends the connection in the middle of the body."""

    async def behave(request: web.BaseRequest) -> web.StreamResponse:
        headers = {"Content-Length": "1000", "Content-Type": "application/json"}
        response = web.StreamResponse(status=status, headers=headers)
        await response.prepare(request)
        await response.write(b'{"choices": [')
        assert request.transport is not None
        request.transport.close()
        return response

    return behave


def never_ends(chunk: bytes, status: int = 200) -> Behaviour:
    async def behave(request: web.BaseRequest) -> web.StreamResponse:
        response = web.StreamResponse(status=status, headers={"Content-Type": "application/json"})
        await response.prepare(request)
        with contextlib.suppress(ConnectionError):
            while True:
                await response.write(chunk)
        return response

    return behave


@dataclass
class ModelServer:
    url: str = ""
    requests: list[dict[str, Any]] = field(default_factory=list)
    keys: list[str] = field(default_factory=list)
    """The `Authorization` of each request."""
    next: deque[Behaviour] = field(default_factory=deque)
    """What to do next; then `always`."""
    always: Behaviour = field(default=refuses(500))

    async def handle(self, request: web.BaseRequest) -> web.StreamResponse:
        self.keys.append(request.headers.get("Authorization", ""))
        self.requests.append(json.loads(await request.read()))
        return await (self.next.popleft() if self.next else self.always)(request)


@contextlib.asynccontextmanager
async def serving_model() -> AsyncIterator[ModelServer]:
    server = ModelServer()
    runner = web.ServerRunner(web.Server(server.handle), shutdown_timeout=0.1)
    await runner.setup()
    site = web.TCPSite(runner, "127.0.0.1", 0)
    await site.start()
    try:
        server.url = f"http://127.0.0.1:{runner.addresses[0][1]}/v1"
        yield server
    finally:
        await runner.cleanup()
