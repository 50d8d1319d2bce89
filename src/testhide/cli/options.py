"""Options that several verbs share, and how a verb gets the settings of the stack that they name."""

import asyncio
import os
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from testhide.settings import Settings
from testhide.stack.offline import settings_of

Flag = Annotated[bool, Parameter(negative=())]
"""An option without a value and without a `--no-` form."""
DataFolder = Annotated[Path | None, Parameter(help="Data folder of an embedded database.")]


def run_on_stack(
    data: Path | None,
    work: Callable[[Settings], Coroutine[Any, Any, int]],
    run: Callable[[Coroutine[Any, Any, int]], int] = asyncio.run,
) -> int:
    """Run `work` on the database of the environment or of `data`. Returns its exit code. Raises Fault."""
    with settings_of(data, os.environ) as settings:
        return run(work(settings))
