"""Sends every operation as every caller to the application itself, and compares who is refused with the rules.

Commands are not carried out: everything about who may do what is decided before the first one, so an operation can be
sent a hundred times, and "let through" has a status of its own.
"""

import asyncio
import contextlib
import dataclasses
import json
import warnings
from collections.abc import AsyncIterator, Sequence
from typing import Any, NamedTuple

import pytest
from litestar import Litestar
from litestar.exceptions import HTTPException, LitestarDeprecationWarning

from api.app import create_app
from api.live import streams
from commands.audit import NoteReading
from commands.handler import Command, CommandContext, Handler, Receipt
from store.postgres.caller_turns import CallerTurns
from testhide.processes import api_services
from testhide.version import VERSION
from tests.support.server import Server

from .operation import Operation
from .rules import Caller, agents, public
from .scene import Scene, make_scene
from .table import MARKER

UPLOAD = "POST /artifacts/upload"
REFUSED = (401, 403, 404)


class LetThrough(HTTPException):
    """Stands for the success of a command that is not carried out."""

    status_code = 299


class NoCommands(Handler):
    async def execute(self, command: Command, caller: CommandContext) -> Receipt:
        if isinstance(command, NoteReading):  # a read is recorded, and answered
            return await super().execute(command, caller)
        raise LetThrough(detail=type(command).__name__)


class Answered(NamedTuple):
    status: int
    body: str


class Difference(NamedTuple):
    """A caller whom the server treats otherwise than the rule says."""

    caller: Caller | None
    """None for nobody and for an agent."""
    sentence: str


@dataclasses.dataclass(frozen=True)
class Matrix:
    app: Litestar
    scene: Scene

    async def differences(self, operation: Operation, callers: Sequence[Caller]) -> AsyncIterator[Difference]:
        """Yields the callers whom the server treats otherwise than the rule says."""
        if operation.rule is public:
            answer = await self._send(operation, None)
            if answer.status in {401, 403, 500}.difference(operation.answers):
                yield Difference(None, f"{operation} by nobody is {answer.status}: {answer.body[:200]}")
            return
        for name, token, expected in (("nobody", None, 401), ("an agent", self.scene.agent_token, 401)):
            if token is not None and (operation.rule is agents or operation.route == UPLOAD):
                continue
            answer = await self._send(operation, token)
            if answer.status != expected:
                sentence = f"{operation} by {name} is {answer.status}, not {expected}: {answer.body[:200]}"
                yield Difference(None, sentence)
        # At once, so that the server looks up their sessions together: a third less CPU time.
        answers = await asyncio.gather(*(self._send(operation, self.scene.tokens[caller]) for caller in callers))
        for caller, answer in zip(callers, answers, strict=True):
            expected = operation.rule(caller)
            allowed = (expected,) if expected else (299, *operation.answers)
            if answer.status not in allowed:
                sentence = f"{operation} by a {caller} is {answer.status}, not {allowed[0]}: {answer.body[:200]}"
                yield Difference(caller, sentence)
            elif operation.lists and not expected:
                shown = MARKER in answer.body
                if shown != (caller.access >= (3 if operation.lists == "admin" else 1)):
                    verb = "shows" if shown else "hides"
                    yield Difference(caller, f"{operation} {verb} the project to a {caller}")

    async def _send(self, operation: Operation, token: str | None) -> Answered:
        ids = self.scene.ids
        headers = [(b"host", b"localhost")]
        if token is not None:
            headers.append((b"authorization", f"Bearer {token}".encode()))
        content = b""
        if operation.body is not None:
            content_type, content = _encode(operation, operation.body(ids))
            headers += [(b"content-type", content_type), (b"content-length", str(len(content)).encode())]
        path = operation.path(ids)
        messages = iter([{"type": "http.request", "body": content, "more_body": False}])
        status, body = 0, bytearray()

        async def receive() -> Any:
            return next(messages, {"type": "http.disconnect"})  # ends what stays open

        async def send(message: Any) -> None:
            nonlocal status
            status = message.get("status", status)
            body.extend(message.get("body", b""))

        scope: Any = {
            "type": "http",
            "asgi": {"version": "3.0", "spec_version": "2.3"},
            "http_version": "1.1",
            "method": operation.method,
            "scheme": "http",
            "path": path,
            "raw_path": path.encode(),
            "root_path": "",
            "query_string": operation.query.format(**ids).encode(),
            "headers": headers,
            "client": ("127.0.0.1", 1),
            "server": ("127.0.0.1", 80),
            "state": {},
            "extensions": {},
        }
        await self.app(scope, receive, send)
        return Answered(status, body.decode(errors="replace"))


def _encode(operation: Operation, fields: Any) -> tuple[bytes, bytes]:
    """Returns the media type and the body."""
    if operation.route != UPLOAD:
        return b"application/json", json.dumps(fields).encode()
    part = '--x\r\nContent-Disposition: form-data; name="{}"{}\r\n\r\n{}\r\n'
    parts = [part.format(name, "", value) for name, value in fields.items()]
    parts.append(part.format("file", '; filename="a.txt"', "text"))
    return b"multipart/form-data; boundary=x", ("".join(parts) + "--x--\r\n").encode()


@contextlib.asynccontextmanager
async def open_matrix(server: Server) -> AsyncIterator[Matrix]:
    """Makes the scene, and the application of one more process on the server's database."""
    scene = await make_scene(server)
    async with api_services(server.settings) as services:
        # Callers are sent together: more than may wait for a turn, or have an export open.
        services.past.turns = CallerTurns(2)
        harmless = dataclasses.replace(
            services, handler=NoCommands(services.log, services.handler._clock), audit_turns=CallerTurns(2)
        )
        with warnings.catch_warnings(action="ignore", category=LitestarDeprecationWarning):
            app = create_app(contextlib.nullcontext(harmless), VERSION)
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(streams, "MAX_EXPORTS_PER_USER", 0)
            patch.setattr(streams, "MAX_EXPORTS", 0)
            async with app.lifespan():
                yield Matrix(app, scene)
