"""The last word of an agent that is stopped."""

from __future__ import annotations

import contextlib
import threading

from agent.server import GivenUp, Refused, Server

_WITHIN = 1.0


def release(server: Server, session: str) -> None:
    """Tell the server that the session is over, if it answers quickly; else it finds that out by itself."""

    def post() -> None:
        with contextlib.suppress(Refused, GivenUp):
            server.post("/api/v3/agent/disconnect", {"session": session}, pause=lambda _: True)

    thread = threading.Thread(target=post, daemon=True)
    thread.start()
    thread.join(_WITHIN)
