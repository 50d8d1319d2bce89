"""The verbs of `testhide audit`, as the command line's parser sees them."""

import asyncio
import os
from collections.abc import Callable, Coroutine
from pathlib import Path

from cyclopts import App

from testhide.settings import Settings

audit = App(name="audit", help="Proof that the log was not altered.")


@audit.command
def verify(export: Path, *, checkpoint: list[Path] | None = None, key: Path | None = None) -> int:
    """Verify an export of the audit log. Needs these files alone; ends with 1 when anything was altered.

    Parameters
    ----------
    export
        What GET /api/v3/audit/export answered.
    checkpoint
        A checkpoint that was kept elsewhere; several narrow down where something was altered.
    key
        The verifier key of the log's first checkpoints (or of the oldest that is trusted).
    """
    from testhide.cli import audit

    return audit.verify(export, checkpoint or (), key)


@audit.command(name="checkpoint")
def newest_checkpoint(*, data: Path | None = None) -> int:
    """Print the newest checkpoint, to be kept elsewhere.

    Parameters
    ----------
    data
        Data folder of an embedded database.
    """
    from testhide.cli import audit

    return _on_stack(audit.print_checkpoint, data)


@audit.command
def keys(*, data: Path | None = None) -> int:
    """Print the verifier keys of the log's checkpoints, the first one first; the last one signs.

    Parameters
    ----------
    data
        Data folder of an embedded database.
    """
    from testhide.cli import audit

    return _on_stack(audit.print_keys, data)


@audit.command(name="rotate-key")
def rotate_key(*, data: Path | None = None) -> int:
    """Make a new signing key and print its verifier key. The next checkpoint, signed by the old one, hands over to it.

    Parameters
    ----------
    data
        Data folder of an embedded database.
    """
    from testhide.cli import audit

    return _on_stack(audit.rotate_key, data)


def _on_stack(verb: Callable[[Settings], Coroutine[None, None, int]], data: Path | None) -> int:
    from testhide.stack.offline import settings_of

    with settings_of(data, os.environ) as settings:
        return asyncio.run(verb(settings))
