"""Options that several commands share, and functions that run a command on the database of a stack."""

import asyncio
import functools
import inspect
import os
from collections.abc import Callable, Coroutine
from pathlib import Path
from typing import Annotated, Any

from cyclopts import Parameter

from testhide.processes import core
from testhide.settings import Settings
from testhide.stack.offline import settings_of

Flag = Annotated[bool, Parameter(negative=())]
"""Type of an option without a value and without a `--no-` form."""
DataFolder = Annotated[Path | None, Parameter(help="Data folder of an embedded database.")]

Runner = Callable[[Coroutine[Any, Any, int]], int]


def run_on_stack(
    data: Path | None, work: Callable[[Settings], Coroutine[Any, Any, int]], run: Runner = asyncio.run
) -> int:
    """Run `work` with the settings of the environment or of the data folder `data`. Returns the exit code of `work`.
    Raises Fault if there are no such settings.
    """
    with settings_of(data, os.environ) as settings:
        return run(work(settings))


def on_stack(verb: Callable[..., Coroutine[Any, Any, int]], run: Runner = asyncio.run) -> Callable[..., int]:
    """Turn a coroutine function into a command of the command line. The command has the option `--data`, the data
    folder of a stack. It calls the function with the Core of this stack (`testhide.processes.Core`) as the first
    argument.
    """

    @functools.wraps(verb)
    def run_verb(*arguments: Any, data: Path | None = None, **options: Any) -> int:
        async def work(settings: Settings) -> int:
            async with core(settings, pool_size=2) as parts:
                return await verb(parts, *arguments, **options)

        return run_on_stack(data, work, run)

    _, *parameters = inspect.signature(verb).parameters.values()
    parameters.append(inspect.Parameter("data", inspect.Parameter.KEYWORD_ONLY, default=None, annotation=DataFolder))
    run_verb.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    run_verb.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return run_verb
