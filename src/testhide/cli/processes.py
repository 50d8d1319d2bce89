"""`testhide serve`, `project`, `dispatch`, `work`, `prepare` and `agent`: one process each.

Functions import their modules themselves, so that a process loads only what it runs.
"""

import asyncio
import os
import sys
from typing import TYPE_CHECKING

from testhide.operator_errors import Fault

if TYPE_CHECKING:
    from testhide.settings import Settings

PROCESSES = {
    "serve": "Answer HTTP.",
    "project": "Build the read models from the event log.",
    "dispatch": "Give queued builds to agents.",
    "work": "Act on events: send webhooks and Teams cards, classify failures, delete what is old, sign the log.",
    "prepare": "Migrate, then make the first administrator.",
}
"""Command without options -> its help text."""
NEED_REDIS = ("serve", "work")
"""Commands that need Redis: `serve` for rate limits, `work` for tasks. The others need only PostgreSQL."""


def run_process(verb: str) -> int:
    """Run the command `verb` of PROCESSES. Raises Fault if a setting is missing or wrong, or if the database cannot be
    used.
    """
    from testhide.settings import load_settings, not_set

    settings = load_settings()
    if verb in NEED_REDIS and not settings.redis_url:
        raise not_set("redis_url")
    if verb == "prepare":
        prepare(settings)
    else:
        from store.log.codec import UnknownEvent
        from testhide import processes

        try:
            getattr(processes, verb)(settings)
        except UnknownEvent as error:
            raise Fault(f"{error}: a newer release wrote it, and its processes take it.") from None
    return 0


def prepare(settings: "Settings") -> None:
    """Make what a server needs before its first start: tables, read models, and the first administrator. Raises Fault
    if one of these cannot be made.
    """
    from testhide import preparation

    if names := preparation.migrate(settings):
        from testhide.rebuild import rebuild, run

        print(f"building read models from the log: {', '.join(names)}", flush=True)
        run(rebuild(settings, names, from_scratch=False, then_switch=True))
    notice = asyncio.run(preparation.create_first_admin(settings))
    forget_admin_password(settings)
    if notice:
        print(notice, flush=True)


def forget_admin_password(settings: "Settings") -> None:
    """Remove the administrator's password from a stack's settings file. Only the first start needs it."""
    from pathlib import Path

    import msgspec

    from testhide.settings import save_settings

    if settings.admin_password and (file := os.environ.get("TESTHIDE_SETTINGS")):
        save_settings(msgspec.structs.replace(settings, admin_password=""), Path(file))


def run_agent(*arguments: str) -> int:
    """Run the agent: --server URL --token-file FILE [--workdir DIR] [--once]; see agent --help."""
    # A new program: isolated, and without this process's modules in its memory.
    os.execv(sys.executable, [sys.executable, "-I", "-m", "agent", *arguments])  # noqa: S606
