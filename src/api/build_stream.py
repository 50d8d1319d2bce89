"""A build's log as server-sent events: exactly the documented `data:` lines.

With ids each message carries `attempt:line`, and a reader that comes back with `Last-Event-ID` goes on after it,
nothing lost or doubled.
"""

import asyncio
from collections.abc import AsyncIterator

import msgspec

from api.services import Services
from domain.builds import BUILD, Finished
from store.build_logs import Line
from store.listen import BUILD_LOGS, EVENTS

MEDIA_TYPE = "text/event-stream"
LINES_AT_ONCE = 1_000
KEEP_ALIVE_S = 15.0
LOOK_AGAIN_S = 1.0


def shown(line: Line) -> str:
    """`[10:00:05] PASSED tests/test_api.py::test_login`, in UTC."""
    seconds = line.at_ms // 1000 % 86_400  # whatever an agent's clock says
    return f"[{seconds // 3600:02}:{seconds // 60 % 60:02}:{seconds % 60:02}] {line.text}"


def data(message: dict[str, str], event_id: str | None) -> bytes:
    # Some clients split lines at these too; in JSON they can be written otherwise.
    text = msgspec.json.encode(message).decode()
    text = text.replace("\u2028", "\\u2028").replace("\u2029", "\\u2029").replace("\x85", "\\u0085")
    identity = f"id: {event_id}\n" if event_id is not None else ""
    return f"{identity}data: {text}\n\n".encode()


async def messages(services: Services, build_id: int, *, with_ids: bool, after: str | None) -> AsyncIterator[bytes]:
    attempt, line = _place(after)
    news = asyncio.Event()
    stream, own = BUILD.at(build_id), str(build_id)

    def on_log(payload: str | None) -> None:
        if payload is None or payload == own:
            news.set()

    with (
        services.listener.subscribed(BUILD_LOGS, on_log),
        services.listener.subscribed(EVENTS, lambda payload: news.set()),
    ):
        quiet = 0.0
        while True:
            news.clear()
            history = (await services.log.load([stream.name]))[stream.name]
            build = stream.fold(recorded.event for recorded in history)
            if build is None:
                return
            if build.attempt != attempt:
                attempt, line = build.attempt, 0
            while lines := await services.build_logs.read(build_id, attempt, line, LINES_AT_ONCE):
                line += len(lines)
                first = line - len(lines) + 1
                yield b"".join(
                    data({"type": "log", "data": shown(item)}, f"{attempt}:{number}" if with_ids else None)
                    for number, item in enumerate(lines, first)
                )
                quiet = 0.0
            if isinstance(build, Finished):
                # Whoever reads `done` may ask for the build next, and should find it finished.
                await services.waiter.wait(history[-1].position)
                last_id = f"{attempt}:{line}" if with_ids else None
                yield data({"type": "status", "data": build.status}, last_id) + data({"type": "done"}, last_id)
                return
            try:
                await asyncio.wait_for(news.wait(), LOOK_AGAIN_S)
            except TimeoutError:
                quiet += LOOK_AGAIN_S
                if with_ids and quiet >= KEEP_ALIVE_S:
                    quiet = 0.0
                    yield b": still here\n\n"


def _place(last_event_id: str | None) -> tuple[int, int]:
    """Attempt and number of the last line that the reader has; the beginning when the id is not one of ours."""
    attempt, _, line = (last_event_id or "").partition(":")
    return (int(attempt), int(line)) if attempt.isdecimal() and line.isdecimal() else (0, 0)
