"""Builds read models from the log, switches to them, and prints the progress.

Building `results` takes nearly as long as building all other read models. So a second process (`python -m
testhide.rebuild`) builds `results` and `artifacts` on a second core; both processes then take about the same time. The
second process reads its settings from standard input. It exits when this input ends, at the latest when the first
process ends.
"""

import asyncio
import os
import sys
import threading
import time
from collections.abc import Callable, Coroutine, Iterator, Sequence
from contextlib import suppress
from functools import partial

import msgspec
import psycopg
import uvloop

from projections.engine.engine import LostLeadership
from projections.engine.inspection import inspect
from projections.engine.model import Projection
from projections.engine.schemas import NotReady
from projections.rebuild.rebuild import Progress, build_staging
from projections.rebuild.switch import Loss, find_losses, switch
from projections.registry import PROJECTIONS
from testhide.operator_errors import Fault
from testhide.processes import Core, core
from testhide.settings import Settings

PRINT_INTERVAL_S = 1.0
"""Seconds between two lines of progress."""
MAX_NAMED = 3
"""Largest number of read models that each line of progress names. For more, the line has only their number."""
SECOND_PROCESS = ("results", "artifacts")
"""Names of the read models that the second process builds."""


class SecondBuild(msgspec.Struct):
    """Input of the second process: one line of JSON on standard input."""

    settings: Settings
    names: list[str]
    """Names of the read models that the process builds."""
    from_scratch: bool


class ProgressPrinter:
    """Prints how far read models have been built, at most once a second, with the rate since the last line."""

    def __init__(self, names: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._names = names
        self._clock = clock
        self._printed: tuple[float, int] | None = None

    def __call__(self, progress: Progress) -> None:
        now = self._clock()
        if self._printed is None:
            self._printed = (now, progress.position)
            return
        since, position = self._printed
        if now - since < PRINT_INTERVAL_S:
            return
        self._printed = (now, progress.position)
        rate = (progress.position - position) / (now - since)
        left = progress.head - progress.position
        eta = f", {left / rate:,.0f} s to go" if rate > 0 else ""
        share = progress.position / max(progress.head, 1)
        print(
            f"{self._names}: {progress.position:,} of {progress.head:,} events ({share:.0%}), {rate:,.0f}/s{eta}",
            flush=True,
        )


def run(work: Coroutine[None, None, int]) -> int:
    """Run `work` on an event loop and return its result. Turns NotReady, LostLeadership and errors of the database into
    Fault.
    """
    try:
        return uvloop.run(work)
    except NotReady as error:
        raise Fault(str(error)) from None
    except (psycopg.Error, LostLeadership) as error:
        raise Fault(
            f"Stopped by the database: {str(error).strip() or type(error).__name__}. Nothing that serves was changed;"
            " the same command goes on where this one ended."
        ) from None


async def rebuild(settings: Settings, names: Sequence[str], *, from_scratch: bool, then_switch: bool) -> int:
    """Build the read models `names`. Without names, builds those that are missing or broken; if there are none, builds
    all.

    With `then_switch`, makes the built tables live, unless they lack events that the live tables have. Returns the exit
    code: 1 if the tables were not made live for this reason, otherwise 0. Raises Fault if a name is unknown or the
    second process fails.
    """
    async with core(settings, pool_size=2) as parts:
        if names:
            chosen = find_projections(names)
        else:
            async with parts.pool.connection() as connection:
                live = await inspect(connection, PROJECTIONS)
            chosen = [item for item in PROJECTIONS if item.name not in live.sound] or list(PROJECTIONS)
        if len(chosen) > MAX_NAMED:
            print(f"building {join_names(chosen)}", flush=True)
        printer = ProgressPrinter(summarize(chosen))
        position = await _build_in_two_processes(settings, parts, chosen, from_scratch, printer)
        print(f"built {join_names(chosen)} up to position {position}")
        if then_switch:
            async with parts.pool.connection() as connection:
                losses = await find_losses(connection, chosen)
            if losses:
                print("\n".join(_describe_losses(losses)))
                return 1
            await switch_over(parts, chosen, printer)
        return 0


async def switch_over(parts: Core, chosen: Sequence[Projection], printer: ProgressPrinter) -> None:
    """Make the staging tables of these read models live, and print the result. Raises NotReady if that is not possible
    now, LostLeadership if another process has changed the tables meanwhile, and psycopg.Error.
    """
    done = await switch(parts.conninfo, parts.log, chosen, printer)
    print(f"switched {join_names(chosen)} at position {done.position}; writes waited {done.blocked_s:.2f} s at most")


def find_projections(names: Sequence[str]) -> list[Projection]:
    """Returns the projections with these names, each once. Raises Fault if a name is unknown."""
    known = {projection.name: projection for projection in PROJECTIONS}
    if unknown := [name for name in names if name not in known]:
        raise Fault(f"There is no projection {unknown[0]!r}; there are: {', '.join(known)}.", 2)
    return [known[name] for name in dict.fromkeys(names)]


def join_names(projections: Sequence[Projection]) -> str:
    return ", ".join(projection.name for projection in projections)


def summarize(projections: Sequence[Projection]) -> str:
    """Returns the names of the projections, or their number if they are more than MAX_NAMED."""
    return join_names(projections) if len(projections) <= MAX_NAMED else f"{len(projections)} read models"


def _describe_losses(losses: Sequence[Loss]) -> Iterator[str]:
    names = " ".join(loss.name for loss in losses)
    yield "not switched, since the new tables lack events that the live ones have:"
    for loss in losses:
        yield f"  {loss.name}: {loss.events:,} parked, the first at position {loss.first}: {loss.error}"
    yield "Put the rows of these events back (`testhide audit put-back`), then build again with --from-scratch. To lose"
    yield f"what they say instead: `testhide projections switch {names}`."


async def _build_in_two_processes(
    settings: Settings, parts: Core, projections: Sequence[Projection], from_scratch: bool, printer: ProgressPrinter
) -> int:
    """Build `projections`, and return the position that all of them have reached. Raises Fault if the second process
    fails, and whatever `build_staging` raises.
    """
    build = partial(build_staging, parts.conninfo, parts.log, on_progress=printer)
    there = [projection for projection in projections if projection.name in SECOND_PROCESS]
    here = [projection for projection in projections if projection not in there]
    if not there or not here:
        return await build(projections, from_scratch=from_scratch)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", "testhide.rebuild", stdin=asyncio.subprocess.PIPE
    )
    assert process.stdin is not None
    try:
        order = SecondBuild(settings, [projection.name for projection in there], from_scratch)
        process.stdin.write(msgspec.json.encode(order) + b"\n")
        await process.stdin.drain()
        await build(here, from_scratch=from_scratch)
        if await process.wait() != 0:
            raise Fault(f"{join_names(there)} could not be built; the reason stands above.")
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    # Brings all to one position: few events were appended in the meantime.
    return await build(projections)


async def _build_second(order: SecondBuild) -> int:
    chosen = find_projections(order.names)
    async with core(order.settings, pool_size=2) as parts:
        printer = ProgressPrinter(summarize(chosen))
        await build_staging(parts.conninfo, parts.log, chosen, from_scratch=order.from_scratch, on_progress=printer)
    return 0


def _exit_at_end_of_input() -> None:
    # Not `sys.stdin`: a thread that reads from it holds a lock that the interpreter needs to exit.
    while os.read(0, 4096):
        continue
    os._exit(1)


def main() -> int:
    order = msgspec.json.decode(sys.stdin.buffer.readline(), type=SecondBuild)
    threading.Thread(target=_exit_at_end_of_input, daemon=True).start()
    try:
        return run(_build_second(order))
    except Fault as fault:
        print(fault, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
