"""`testhide projections ...`: what an operator does with the read models, and what it prints."""

import time
from collections.abc import Callable, Coroutine, Sequence

import psycopg
import uvloop

from projections.engine.engine import LostLeadership
from projections.engine.model import Projection
from projections.engine.schemas import Unready, missing
from projections.rebuild.diff import Diff, diff
from projections.rebuild.drop import drop
from projections.rebuild.rebuild import Progress
from projections.rebuild.retry import retry
from projections.rebuild.status import Standing, overview
from projections.rebuild.switch import switch
from projections.registry import PROJECTIONS
from testhide.cli.bulk_load import build_together
from testhide.operator_errors import Fault
from testhide.processes import Core, core
from testhide.settings import Settings

TOLD_S = 1.0
"""How often a build says how far it is."""


class ProgressPrinter:
    """Prints the progress of a build about once a second, with the rate of the last seconds."""

    def __init__(self, what: str, clock: Callable[[], float] = time.monotonic) -> None:
        self._what = what
        self._clock = clock
        self._seen: tuple[float, int] | None = None

    def __call__(self, progress: Progress) -> None:
        now = self._clock()
        if self._seen is None:
            self._seen = (now, progress.position)
            return
        since, position = self._seen
        if now - since < TOLD_S:
            return
        self._seen = (now, progress.position)
        rate = (progress.position - position) / (now - since)
        left = progress.head - progress.position
        eta = f", {left / rate:,.0f} s to go" if rate > 0 else ""
        share = progress.position / max(progress.head, 1)
        print(
            f"{self._what}: {progress.position:,} of {progress.head:,} events ({share:.0%}), {rate:,.0f}/s{eta}",
            flush=True,
        )


async def rebuild(settings: Settings, names: Sequence[str], *, from_scratch: bool, then_switch: bool) -> int:
    async with core(settings, pool_size=2) as parts:
        if names:
            chosen = _known(names)
        else:
            async with parts.pool.connection() as connection:
                chosen = await missing(connection, PROJECTIONS) or list(PROJECTIONS)
        tell = ProgressPrinter(_names(chosen))
        position = await build_together(settings, parts, chosen, from_scratch=from_scratch, told=tell)
        print(f"built {_names(chosen)} up to position {position}")
        if then_switch:
            await _switch(parts, chosen, tell)
        return 0


async def build_missing(settings: Settings, names: Sequence[str]) -> int:
    """Before anything serves: read models that this release has new, or in a new version."""
    print(f"building read models from the log: {', '.join(names)}", flush=True)
    return await rebuild(settings, names, from_scratch=False, then_switch=True)


async def switch_to(settings: Settings, names: Sequence[str]) -> int:
    async with core(settings, pool_size=2) as parts:
        chosen = _known(names)
        await _switch(parts, chosen, ProgressPrinter(_names(chosen)))
        return 0


async def _switch(parts: Core, chosen: Sequence[Projection], tell: ProgressPrinter) -> None:
    done = await switch(parts.conninfo, parts.log, chosen, tell)
    print(f"switched {_names(chosen)} at position {done.position}; writes waited {done.held_s:.2f} s at most")


async def compare(settings: Settings, names: Sequence[str]) -> int:
    """0 when all rows are equal, 1 when not."""
    async with core(settings, pool_size=2) as parts:
        found = [await diff(parts.conninfo, parts.log, projection) for projection in _known(names)]
    for item in found:
        print("\n".join(_shown(item)))
    return 0 if all(item.is_equal for item in found) else 1


async def drop_what_is_left(settings: Settings, names: Sequence[str]) -> int:
    async with core(settings, pool_size=2) as parts, parts.pool.connection() as connection:
        for what in await drop(connection, PROJECTIONS, names) or ["nothing"]:
            print(f"dropped {what}")
    return 0


async def retry_parked(settings: Settings, name: str, stream: str | None) -> int:
    """0 when nothing is parked any more, 1 when something is."""
    (projection,) = _known([name])
    async with core(settings, pool_size=2) as parts:
        done = await retry(parts.conninfo, parts.log, projection, stream)
    for error in done.errors:
        print(error)
    print(f"applied {done.applied:,} parked events of {name}, {done.left:,} left")
    return 1 if done.left else 0


async def status(settings: Settings) -> int:
    async with core(settings, pool_size=2) as parts:
        head = await parts.log.read_head()
        async with parts.pool.connection() as connection:
            found = await overview(connection, PROJECTIONS, head)
    print(f"{'name':<16} {'version':>7}  {'state':<11} {'position':>12} {'lag':>10} {'parked':>7}")
    for item in found:
        print(
            f"{item.name:<16} {item.version:>7}  {item.state:<11} {item.position:>12,} {item.lag:>10,}"
            f" {item.parked:>7,}{_progress(item)}"
        )
        for error in item.errors:
            print(f"    parked: {error}")
    return 0


def run(work: Coroutine[None, None, int]) -> int:
    """Raises Fault."""
    try:
        return uvloop.run(work)
    except Unready as error:
        raise Fault(str(error)) from None
    except (psycopg.Error, LostLeadership) as error:
        raise Fault(
            f"Stopped by the database: {str(error).strip() or type(error).__name__}. Nothing that serves was changed;"
            " the same command goes on where this one ended."
        ) from None


def _known(names: Sequence[str]) -> list[Projection]:
    known = {projection.name: projection for projection in PROJECTIONS}
    if unknown := [name for name in names if name not in known]:
        raise Fault(f"There is no projection {unknown[0]!r}; there are: {', '.join(known)}.", 2)
    return [known[name] for name in names]


def _names(projections: Sequence[Projection]) -> str:
    return ", ".join(projection.name for projection in projections)


def _progress(item: Standing) -> str:
    if item.progress is None:
        return ""
    return f"  {item.progress:.0%}" + (f", {item.eta_s:,} s to go" if item.eta_s is not None else "")


def _shown(found: Diff) -> list[str]:
    lines = [
        f"{found.name}: version {found.serving_version} serves, version {found.beside_version} stands beside,"
        f" both at position {found.position:,}"
    ]
    for table in found.tables:
        differences = [
            f"{count:,} {words}"
            for count, words in (
                (table.changed, "changed"),
                (table.only_serving, "only serving"),
                (table.only_beside, "only beside"),
            )
            if count
        ]
        lines.append(
            f"  {table.serving}: {table.rows_serving:,} rows, {table.rows_beside:,} beside:"
            f" {', '.join(differences) or 'equal'}"
        )
        lines += [f"    {line}" for line in table.first]
        if table.left_out:
            lines.append(f"    not compared, since only one side has them: {', '.join(table.left_out)}")
    if found.left_out:
        lines.append(f"  tables that only one side has: {', '.join(found.left_out)}")
    return lines
