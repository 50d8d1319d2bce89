"""`testhide reactions`: its verbs and their options."""

import asyncio
import os
from pathlib import Path

from cyclopts import App

app = App(name="reactions", help="What follows from events outside the log.")


@app.command
def status(*, data: Path | None = None) -> int:
    """Show how far along the log each reaction is, what is due and what is parked.

    Parameters
    ----------
    data
        Data folder of an embedded database.
    """
    from testhide.cli import reactions
    from testhide.stack.offline import settings_of

    with settings_of(data, os.environ) as settings:
        return asyncio.run(reactions.status(settings))


@app.command
def retry(name: str | None = None, *, data: Path | None = None) -> int:
    """Let what is parked be tried again, of one reaction or of all.

    Parameters
    ----------
    data
        Data folder of an embedded database.
    """
    from testhide.cli import reactions
    from testhide.stack.offline import settings_of

    with settings_of(data, os.environ) as settings:
        return asyncio.run(reactions.retry_parked(settings, name))
