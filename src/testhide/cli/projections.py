"""`testhide projections`: show, rebuild, switch, compare and drop read models, and retry parked events."""

from collections.abc import Sequence
from pathlib import Path

from cyclopts import App

from projections.rebuild.diff import Diff
from projections.rebuild.diff import diff as compare_tables
from projections.rebuild.drop import drop as drop_unused
from projections.rebuild.retry import retry as retry_events
from projections.rebuild.status import Standing, overview
from projections.registry import PROJECTIONS
from testhide import rebuild as rebuilding
from testhide.cli.options import DataFolder, Flag, run_on_stack
from testhide.processes import core
from testhide.rebuild import ProgressPrinter, find_projections, join_names, run, switch_over
from testhide.settings import Settings

app = App(name="projections", help="Read models.")


@app.command
def status(*, data: DataFolder = None) -> int:
    """Show how far each read model is, what is being built, and what could not be projected."""
    return run_on_stack(data, _print_status, run)


@app.command
def rebuild(*names: str, switch: Flag = False, from_scratch: Flag = False, data: Path | None = None) -> int:
    """Build read models from the event log, in staging tables, while everything runs.

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
    return run_on_stack(
        data,
        lambda settings: rebuilding.rebuild(settings, names, from_scratch=from_scratch, then_switch=switch),
        run,
    )


@app.command
def switch(name: str, *names: str, data: DataFolder = None) -> int:
    """Make staging tables live. The tables that they replace stay until `drop`."""
    return run_on_stack(data, lambda settings: _switch(settings, (name, *names)), run)


@app.command
def diff(name: str, *names: str, data: DataFolder = None) -> int:
    """Compare staging tables with the live ones, row by row. Ends with 1 when they differ."""
    return run_on_stack(data, lambda settings: _compare(settings, (name, *names)), run)


@app.command
def drop(name: str, *names: str, data: DataFolder = None) -> int:
    """Drop staging tables, those that a switch replaced, and those of other releases. Never live ones."""
    return run_on_stack(data, lambda settings: _drop(settings, (name, *names)), run)


@app.command
def retry(name: str, *, stream: str | None = None, data: DataFolder = None) -> int:
    """Apply parked events again, in order. Ends with 1 when some stay parked.

    Parameters
    ----------
    stream
        Only this one, such as `build-7`.
    """
    return run_on_stack(data, lambda settings: _retry_parked(settings, name, stream), run)


async def _switch(settings: Settings, names: Sequence[str]) -> int:
    async with core(settings, pool_size=2) as parts:
        chosen = find_projections(names)
        await switch_over(parts, chosen, ProgressPrinter(join_names(chosen)))
        return 0


async def _compare(settings: Settings, names: Sequence[str]) -> int:
    async with core(settings, pool_size=2) as parts:
        found = [await compare_tables(parts.conninfo, parts.log, projection) for projection in find_projections(names)]
    for item in found:
        print("\n".join(_describe_diff(item)))
    return 0 if all(item.is_equal for item in found) else 1


async def _drop(settings: Settings, names: Sequence[str]) -> int:
    async with core(settings, pool_size=2) as parts, parts.pool.connection() as connection:
        for what in await drop_unused(connection, PROJECTIONS, names) or ["nothing"]:
            print(f"dropped {what}")
    return 0


async def _retry_parked(settings: Settings, name: str, stream: str | None) -> int:
    (projection,) = find_projections([name])
    async with core(settings, pool_size=2) as parts:
        done = await retry_events(parts.conninfo, parts.log, projection, stream)
    for error in done.errors:
        print(error)
    print(f"applied {done.applied:,} parked events of {name}, {done.left:,} left")
    return 1 if done.left else 0


async def _print_status(settings: Settings) -> int:
    async with core(settings, pool_size=2) as parts:
        head = await parts.log.read_head()
        async with parts.pool.connection() as connection:
            found = await overview(connection, PROJECTIONS, head)
    print(f"{'name':<16} {'version':>7}  {'state':<11} {'position':>12} {'lag':>10} {'parked':>7}")
    for item in found:
        print(
            f"{item.name:<16} {item.version:>7}  {item.state:<11} {item.position:>12,} {item.lag:>10,}"
            f" {item.parked:>7,}{_describe_progress(item)}"
        )
        for error in item.errors:
            print(f"    parked: {error}")
    return 0


def _describe_progress(item: Standing) -> str:
    if item.progress is None:
        return ""
    return f"  {item.progress:.0%}" + (f", {item.eta_s:,} s to go" if item.eta_s is not None else "")


def _describe_diff(found: Diff) -> list[str]:
    lines = [
        f"{found.name}: live version {found.live_version}, staging version {found.staging_version},"
        f" both at position {found.position:,}"
    ]
    for table in found.tables:
        differences = [
            f"{count:,} {words}"
            for count, words in (
                (table.changed, "changed"),
                (table.only_live, "only live"),
                (table.only_staging, "only staging"),
            )
            if count
        ]
        lines.append(
            f"  {table.live}: {table.rows_live:,} rows live, {table.rows_staging:,} staging:"
            f" {', '.join(differences) or 'equal'}"
        )
        lines += [f"    {line}" for line in table.differences]
        if table.not_compared:
            lines.append(f"    not compared, since only one side has them: {', '.join(table.not_compared)}")
    if found.not_compared:
        lines.append(f"  tables that only one side has: {', '.join(found.not_compared)}")
    return lines
