"""`testhide projections`: its verbs and their options."""

import os
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

if TYPE_CHECKING:
    from testhide.settings import Settings

app = App(name="projections", help="Read models.")

Flag = Annotated[bool, Parameter(negative=())]


@app.command
def status(*, data: Path | None = None) -> int:
    """Show how far each read model is, what is being built, and what could not be projected.

    Parameters
    ----------
    data
        Data folder of an embedded database.
    """
    from testhide.cli import projections

    return _on(data, projections.status)


@app.command
def rebuild(*names: str, switch: Flag = False, from_scratch: Flag = False, data: Path | None = None) -> int:
    """Build read models beside those that serve, from the event log, while everything runs.

    Without names those that this release misses; where it misses none, all. Goes on where an interrupted build ended.

    Parameters
    ----------
    switch
        Let them serve as soon as they are built.
    from_scratch
        Forget what an earlier build left.
    data
        Data folder of an embedded database, which is started for it unless its stack runs.
    """
    from testhide.cli import projections

    return _on(
        data, lambda settings: projections.rebuild(settings, names, from_scratch=from_scratch, then_switch=switch)
    )


@app.command
def switch(name: str, *names: str, data: Path | None = None) -> int:
    """Let read models serve that were built beside. What they replace stays until `drop`.

    Parameters
    ----------
    data
        Data folder of an embedded database.
    """
    from testhide.cli import projections

    return _on(data, lambda settings: projections.switch_to(settings, (name, *names)))


@app.command
def diff(name: str, *names: str, data: Path | None = None) -> int:
    """Compare, row by row, what was built beside with what serves. Ends with 1 when they differ.

    Parameters
    ----------
    data
        Data folder of an embedded database.
    """
    from testhide.cli import projections

    return _on(data, lambda settings: projections.compare(settings, (name, *names)))


@app.command
def drop(name: str, *names: str, data: Path | None = None) -> int:
    """Drop what was built beside, what a switch replaced, and what other releases left. Never what serves.

    Parameters
    ----------
    data
        Data folder of an embedded database.
    """
    from testhide.cli import projections

    return _on(data, lambda settings: projections.drop_what_is_left(settings, (name, *names)))


@app.command
def retry(name: str, *, stream: str | None = None, data: Path | None = None) -> int:
    """Apply parked events again, in order. Ends with 1 when some stay parked.

    Parameters
    ----------
    stream
        Only this one, such as `build-7`.
    data
        Data folder of an embedded database.
    """
    from testhide.cli import projections

    return _on(data, lambda settings: projections.retry_parked(settings, name, stream))


def _on(data: Path | None, work: "Callable[[Settings], Coroutine[None, None, int]]") -> int:
    from testhide.cli import projections
    from testhide.stack.offline import settings_of

    with settings_of(data, os.environ) as settings:
        return projections.run(work(settings))
