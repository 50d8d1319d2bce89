"""The command line. What a verb needs is imported inside of it: `project` must not pay for `up`."""

from __future__ import annotations

import asyncio
import os
import sys
from collections.abc import Sequence
from typing import TYPE_CHECKING

from domain.core.errors import StreamDamaged
from testhide.operator_errors import Fault

if TYPE_CHECKING:
    from testhide.settings import Settings

# Verbs without options; run without the parser, which would stay in their memory.
PROCESSES = ("serve", "project", "dispatch", "work", "migrate", "prepare")


def main(argv: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        if len(arguments) == 1 and arguments[0] in PROCESSES:
            return run_process(arguments[0])
        if arguments[:1] == ["agent"]:
            return run_agent(arguments[1:])
        return _run_app(arguments)
    except Fault as fault:
        print(f"testhide: {fault}", file=sys.stderr)
        return fault.exit_code
    except StreamDamaged as error:
        print(f"testhide: {error.detail}", file=sys.stderr)
        return 1
    except OSError as error:
        if error.filename is None and error.errno is None:
            raise
        print(f"testhide: {error.strerror or error}: {error.filename or ''}".rstrip(": "), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def run_process(verb: str) -> int:
    from testhide import preparation, processes
    from testhide.settings import load_settings

    settings = load_settings()
    if verb == "prepare":
        from store.crypto.secrets import SecretMismatch

        if names := preparation.migrate(settings):
            from testhide.cli.projections import build_missing, run

            run(build_missing(settings, names))
        try:
            password = asyncio.run(preparation.create_first_admin(settings))
        except SecretMismatch as error:
            raise Fault(str(error)) from None
        forget_admin_password(settings)
        if password:
            who = f"{settings.admin_email}  password: {password}"
            print(f"first administrator: {who}  (shown once)", flush=True)
    elif verb == "migrate":
        for name in preparation.migrate(settings):
            print(f"{name} has to be built from the log: run `testhide projections rebuild {name} --switch`")
    else:
        from store.log.codec import UnknownEvent

        try:
            getattr(processes, verb)(settings)
        except UnknownEvent as error:
            raise Fault(f"{error}: a newer release wrote it, and its processes take it.") from None
    return 0


def forget_admin_password(settings: Settings) -> None:
    """Only the first start needs it: the file of a running stack keeps it no longer."""
    from pathlib import Path

    import msgspec

    from testhide.settings import save_settings

    if settings.admin_password and (file := os.environ.get("TESTHIDE_SETTINGS")):
        save_settings(msgspec.structs.replace(settings, admin_password=""), Path(file))


def run_agent(arguments: list[str]) -> int:
    # Isolated, and without this process's modules in its memory.
    os.execv(sys.executable, [sys.executable, "-I", "-m", "agent", *arguments])  # noqa: S606


def _run_app(arguments: list[str]) -> int:
    from testhide.cli.verbs import app

    result = app(arguments, result_action="return_value")
    return result if isinstance(result, int) else 0
