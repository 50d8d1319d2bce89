"""Language models behind the OpenAI API: those of OpenAI, and of servers that imitate it (llama.cpp, vLLM, Ollama).

Loads the library openai with the first call: that takes a second and 60 MB, and only `testhide work` calls models.
"""

import asyncio
import importlib.util
from collections.abc import AsyncIterator
from typing import TYPE_CHECKING, Annotated, Any, Literal

import msgspec

from integrations.llm_ports import ModelReply, ModelRequest, ModelUnavailable

if TYPE_CHECKING:
    from openai import APIStatusError, AsyncOpenAI

MAX_RESPONSE_BYTES = 256 * 1024
"""Largest number of bytes of a response. An answer of 800 tokens has some 7 KB."""
BOUNDS = ("maxItems", "maxLength")
"""Keywords for limits in JSON schemas. Some servers refuse them in strict mode, but without them a small model repeats
itself.
"""

Format = Literal["json_schema", "json_object", "text"]
Count = Annotated[int, msgspec.Meta(ge=0, le=10**9)]


def is_installed() -> bool:
    """Returns whether the library is installed. Does not import it."""
    return importlib.util.find_spec("openai") is not None and importlib.util.find_spec("httpx2") is not None


class ResponseTooLong(Exception):
    """The response has more than MAX_RESPONSE_BYTES, or is compressed, so that its size is not known."""


class _Message(msgspec.Struct):
    content: str | None = None
    refusal: str | None = None


class _Choice(msgspec.Struct):
    message: _Message
    finish_reason: str | None = None


class _Usage(msgspec.Struct):
    prompt_tokens: Count = 0
    completion_tokens: Count = 0


class _Completion(msgspec.Struct):
    choices: Annotated[list[_Choice], msgspec.Meta(min_length=1)]
    usage: _Usage | None = None


class _Dialect(msgspec.Struct, frozen=True):
    """Form in which requests are sent to a model. Servers differ in the parameters that they know, and answer status
    400 for others.
    """

    format: Format = "json_schema"
    has_bounds: bool = True
    """Whether schemas may have the keywords BOUNDS."""
    limit: Literal["max_tokens", "max_completion_tokens"] = "max_tokens"
    has_temperature: bool = True

    def parameters(self, request: ModelRequest) -> dict[str, Any]:
        given: dict[str, Any] = {self.limit: request.max_tokens}
        if self.has_temperature:
            given["temperature"] = 0
        if self.format == "json_schema":
            schema = request.schema if self.has_bounds else _without_bounds(request.schema)
            named = {"name": "answer", "schema": schema, "strict": True}
            given["response_format"] = {"type": "json_schema", "json_schema": named}
        elif self.format == "json_object":
            given["response_format"] = {"type": "json_object"}
        return given

    def without(self, complaint: str) -> "_Dialect | None":
        """Returns the dialect without the parameter that a server complains about; None if no parameter can be left
        out.
        """
        change = msgspec.structs.replace
        if self.limit == "max_tokens" and "max_completion_tokens" in complaint:
            return change(self, limit="max_completion_tokens")
        if self.has_temperature and "temperature" in complaint:
            return change(self, has_temperature=False)
        if self.format == "json_schema":
            return change(self, has_bounds=False) if self.has_bounds else change(self, format="json_object")
        return change(self, format="text") if self.format == "json_object" else None


def _without_bounds(schema: Any) -> Any:
    if isinstance(schema, dict):
        return {key: _without_bounds(value) for key, value in schema.items() if key not in BOUNDS}
    return [_without_bounds(value) for value in schema] if isinstance(schema, list) else schema


class OpenAiModel:
    """Implements `LanguageModel`. `timeout_s` limits a whole call of `complete`. Use it in one event loop only."""

    def __init__(self, url: str, key: str, timeout_s: float) -> None:
        self._url, self._key, self._timeout_s = url, key, timeout_s
        self._client: AsyncOpenAI | None = None
        self._dialects: dict[str, _Dialect] = {}
        """Name of a model -> dialect of the last request that it answered."""

    async def complete(self, request: ModelRequest) -> ModelReply:
        client = await self._open()
        try:
            async with asyncio.timeout(self._timeout_s):
                return _read(await self._call(client, request))
        except TimeoutError:
            raise ModelUnavailable(
                f"The model's server did not answer within {self._timeout_s:g} s.", has_used_tokens=True
            ) from None

    async def close(self) -> None:
        if self._client is not None:
            await self._client.close()
            self._client = None

    async def _open(self) -> "AsyncOpenAI":
        if self._client is None:
            openai: Any = await asyncio.to_thread(importlib.import_module, "openai")
            if self._client is None:  # others may have opened it meanwhile
                self._client = openai.AsyncOpenAI(
                    api_key=self._key or "none",
                    base_url=self._url,
                    max_retries=0,
                    timeout=self._timeout_s,
                    http_client=_make_http_client(),
                )
        assert self._client is not None
        return self._client

    async def _call(self, client: "AsyncOpenAI", request: ModelRequest) -> bytes:
        """Returns the body of the response. If the server refuses a parameter, sends the request again without it. A
        refused request uses no tokens.
        """
        import httpx2
        import openai

        messages: Any = [
            {"role": "system", "content": request.instructions},
            {"role": "user", "content": request.data},
        ]
        create: Any = client.chat.completions.with_raw_response.create
        dialect = self._dialects.get(request.model, _Dialect())
        while True:
            try:
                response = await create(model=request.model, messages=messages, **dialect.parameters(request))
            except openai.APIStatusError as error:
                simpler = dialect.without(error.message) if error.status_code in (400, 422) else None
                if simpler is None:
                    raise _refused(error, request.model) from None
                dialect = simpler
            except openai.APITimeoutError:
                raise TimeoutError from None
            except ResponseTooLong:
                raise ModelUnavailable(
                    f"The model's response is longer than {MAX_RESPONSE_BYTES // 1024} KiB or compressed.",
                    has_used_tokens=True,
                ) from None
            except (openai.APIConnectionError, httpx2.HTTPError) as error:  # the latter in the body of a refusal
                raise _unreachable(error) from None
            else:
                self._dialects[request.model] = dialect
                return bytes(response.content)


def _read(body: bytes) -> ModelReply:
    try:
        completion = msgspec.json.decode(body, type=_Completion)
    except (msgspec.MsgspecError, UnicodeDecodeError):
        raise ModelUnavailable(
            "The model's server answered with something else than a completion.", has_used_tokens=True
        ) from None
    choice, usage = completion.choices[0], completion.usage
    tokens = None if usage is None else usage.prompt_tokens + usage.completion_tokens
    if choice.finish_reason == "length":
        raise ModelUnavailable("The model's answer was cut off at its largest length.", has_used_tokens=True)
    if not choice.message.content:
        raise ModelUnavailable("The model refused to answer.", has_used_tokens=True)
    return ModelReply(choice.message.content, tokens)


def _refused(error: "APIStatusError", model: str) -> ModelUnavailable:
    # Without the server's own words, which may repeat the key or the prompt.
    status = error.status_code
    reason = {
        401: "refused the API key",
        403: "does not allow the call",
        404: f"does not know the model {model}, or has another URL",
        413: "found the prompt too long",
        429: "has too many requests, or no credit left",
    }.get(status, "failed" if status >= 500 else "refused the request")
    return ModelUnavailable(f"The model's server {reason} (status {status}).", has_used_tokens=False)


def _unreachable(error: Exception) -> ModelUnavailable:
    import httpx2

    cause: BaseException | None = error
    while cause is not None:
        if isinstance(cause, httpx2.ConnectError):
            return ModelUnavailable("The model's server cannot be reached.", has_used_tokens=False)
        cause = cause.__cause__ or cause.__context__
    return ModelUnavailable("The model's server cut its response off.", has_used_tokens=True)


def _make_http_client() -> Any:
    """Returns a client of httpx2 that follows no redirects and reads MAX_RESPONSE_BYTES of a response at most."""
    import httpx2

    class CappedBody(httpx2.AsyncByteStream):
        def __init__(self, stream: Any) -> None:
            self._stream = stream

        async def __aiter__(self) -> AsyncIterator[bytes]:
            left = MAX_RESPONSE_BYTES
            async for chunk in self._stream:
                left -= len(chunk)
                if left < 0:
                    raise ResponseTooLong
                yield chunk

        async def aclose(self) -> None:
            await self._stream.aclose()

    class CappedTransport(httpx2.AsyncHTTPTransport):
        async def handle_async_request(self, request: Any) -> Any:
            response = await super().handle_async_request(request)
            if response.headers.get("content-encoding", "identity") != "identity":
                await response.aclose()
                raise ResponseTooLong
            response.stream = CappedBody(response.stream)
            return response

    return httpx2.AsyncClient(
        transport=CappedTransport(), headers={"Accept-Encoding": "identity"}, timeout=httpx2.Timeout(None)
    )
