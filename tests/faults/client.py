"""Client of the API that repeats calls without an answer."""

import asyncio
import json
import re
import uuid
from contextlib import AbstractAsyncContextManager
from dataclasses import dataclass
from typing import Any

import aiohttp

from tests.support.server import ADMIN

ANSWER_TIMEOUT_S = 90.0
"""Time until a call is answered: a busy machine may take most of a minute to replace both API processes."""
RETRY_DELAY_S = 0.2
CARRIED_OUT_MESSAGES = re.compile(r"still being answered|was carried out")


@dataclass
class Answer:
    status: int
    body: Any
    position: int | None
    carried_out: bool
    """Whether the server certainly executed the request. A 409 about a repeated key may say only this."""


@dataclass(frozen=True)
class File:
    build_id: int
    name: str
    content: bytes

    def form(self) -> aiohttp.FormData:
        form = aiohttp.FormData({"build_id": str(self.build_id)})
        form.add_field("file", self.content, filename=self.name)
        return form


class RetryingClient:
    """Calls the API as administrator, repeats calls without an answer. All tries of a POST have one idempotency key."""

    def __init__(self, http: aiohttp.ClientSession, url: str) -> None:
        self._http = http
        self.url = url
        self._headers: dict[str, str] = {}
        self.acknowledged: list[tuple[int, str]] = []
        """Position in the log that an answer named, with method and path of the request."""

    async def sign_in(self) -> None:
        body = {"username": ADMIN[0], "password": ADMIN[1]}
        answer = await self.call("POST", "/api/v3/authenticate", body)
        assert answer.status == 200, answer
        self._headers = {"Authorization": f"Bearer {answer.body['token']}"}

    async def call(
        self, method: str, path: str, body: object = None, within_s: float = ANSWER_TIMEOUT_S, file: File | None = None
    ) -> Answer:
        """Repeats the call until the answer is neither 5xx nor 429, and returns it. Raises TimeoutError.

        An upload of `file` has no idempotency key: an artifact that is uploaded again is stored once.
        """
        is_keyed = method == "POST" and file is None
        headers = self._headers | ({"Idempotency-Key": uuid.uuid4().hex} if is_keyed else {})
        async with asyncio.timeout(within_s):
            while True:
                try:
                    answer = await self._try(method, path, headers, body, file)
                except (aiohttp.ClientError, OSError, TimeoutError):
                    await asyncio.sleep(RETRY_DELAY_S)
                    continue
                if answer.status < 500 and answer.status != 429:
                    if answer.position is not None and answer.status < 300:
                        self.acknowledged.append((answer.position, f"{method} {path}"))
                    return answer
                await asyncio.sleep(RETRY_DELAY_S)

    async def download(self, path: str) -> bytes:
        async with self._http.get(self.url + path, headers=self._headers) as answer:
            answer.raise_for_status()
            return await answer.read()

    def stream(self, path: str, last_event_id: str | None) -> AbstractAsyncContextManager[aiohttp.ClientResponse]:
        headers = self._headers | ({} if last_event_id is None else {"Last-Event-ID": last_event_id})
        # Keep-alive comments come more often than every 40 s.
        timeout = aiohttp.ClientTimeout(total=None, sock_connect=10, sock_read=40)
        return self._http.get(self.url + path, headers=headers, timeout=timeout)

    async def _try(self, method: str, path: str, headers: dict[str, str], body: object, file: File | None) -> Answer:
        content: dict[str, Any] = {"json": body} if file is None else {"data": file.form()}
        timeout = aiohttp.ClientTimeout(total=10)
        async with self._http.request(method, self.url + path, headers=headers, timeout=timeout, **content) as answer:
            text = await answer.text()
            body_read = json.loads(text) if text else None
            position = answer.headers.get("Testhide-Position")
            done = answer.status < 300 or (answer.status == 409 and bool(CARRIED_OUT_MESSAGES.search(text)))
            return Answer(answer.status, body_read, None if position is None else int(position), done)
