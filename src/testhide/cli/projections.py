"""`testhide projections`: shows, rebuilds, compares, switches and drops read models; retries and dismisses parked
events.
"""

from functools import partial
from pathlib import Path

from cyclopts import App

from commands.handler import CommandContext, Handler
from commands.projections import DismissEvent
from projections.engine.parking import find_parked, parked_events
from projections.engine.schemas import STAGING, fetch_schema_positions
from projections.rebuild.diff import Diff
from projections.rebuild.diff import diff as compare_tables
from projections.rebuild.drop import drop as drop_unused
from projections.rebuild.retry import retry as retry_events
from projections.rebuild.status import ReadModelStatus, overview
from projections.registry import PROJECTIONS
from store.clock import utcnow
from testhide import rebuild as rebuilding
from testhide.cli import options
from testhide.operator_errors import Fault
from testhide.operator_name import find_operator
from testhide.processes import Core
from testhide.rebuild import ProgressPrinter, find_projections, run, summarize, switch_over

app = App(name="projections", help="Show, rebuild, compare and switch read models.")
on_stack = partial(options.on_stack, run=run)


@app.command
@on_stack
async def status(parts: Core) -> int:
    """Show each read model's position in the log, rebuilds in progress, and parked events."""
    async with parts.pool.connection() as connection:
        found = await overview(connection, PROJECTIONS)
    width = max(len(item.name) for item in found)
    print(f"{'name':<{width}} {'version':>7}  {'state':<11} {'position':>12} {'lag':>10} {'parked':>7}")
    for item in found:
        print(
            f"{item.name:<{width}} {item.version:>7}  {item.state:<11} {item.position:>12,} {item.lag:>10,}"
            f" {item.parked:>7,}{_describe_progress(item)}"
        )
        if item.defect is not None:
            print(f"    {item.defect}: run `testhide projections rebuild {item.name} --switch`")
        for error in item.errors:
            print(f"    parked: {error}")
    return 0


@app.command
def rebuild(
    *names: str, switch: options.Flag = False, from_scratch: options.Flag = False, data: Path | None = None
) -> int:
    """Build read models from the event log, in staging tables, while everything runs.

    Without names, builds the read models that are missing or broken; if there are none, builds all. Continues an
    interrupted rebuild.

    Parameters
    ----------
    switch
        Switch to the new tables as soon as they are built, unless they lack events that the live tables have.
    from_scratch
        Begin anew instead of continuing an interrupted rebuild.
    data
        Data folder of an embedded database. If no `testhide up` runs on it, the database runs only for this command.
    """
    return options.run_on_stack(
        data, lambda settings: rebuilding.rebuild(settings, names, from_scratch=from_scratch, then_switch=switch), run
    )


@app.command
@on_stack
async def switch(parts: Core, name: str, *names: str) -> int:
    """Make staging tables live. The tables that they replace stay until `drop`."""
    chosen = find_projections((name, *names))
    await switch_over(parts, chosen, ProgressPrinter(summarize(chosen)))
    return 0


@app.command
@on_stack
async def diff(parts: Core, *names: str) -> int:
    """Compare staging tables with the live ones, row by row. Ends with 1 when they differ.

    Without names, compares all read models that have staging tables.
    """
    async with parts.pool.connection() as connection:
        built = await fetch_schema_positions(connection, STAGING)
    chosen = find_projections(names) or [item for item in PROJECTIONS if (item.name, item.version) in built]
    if not chosen:
        raise Fault("No read model has staging tables: run `testhide projections rebuild` first.")
    found = [await compare_tables(parts.conninfo, parts.log, projection) for projection in chosen]
    for item in found:
        print("\n".join(_describe_diff(item)))
    return 0 if all(item.is_equal for item in found) else 1


@app.command
@on_stack
async def drop(parts: Core, name: str, *names: str) -> int:
    """Drop staging tables, tables that a switch replaced, and tables of other releases. Live tables stay."""
    async with parts.pool.connection() as connection:
        for what in await drop_unused(connection, PROJECTIONS, (name, *names)) or ["nothing"]:
            print(f"dropped {what}")
    return 0


@app.command
@on_stack
async def retry(parts: Core, name: str, *, stream: str | None = None) -> int:
    """Apply parked events again, in order. Ends with 1 when some stay parked.

    Parameters
    ----------
    stream
        Apply only the parked events of this stream, such as `build-7`.
    """
    (projection,) = find_projections([name])
    done = await retry_events(parts.conninfo, parts.log, projection, stream)
    for error in done.errors:
        print(error)
    print(f"applied {done.applied:,} parked events of {name}, {done.left:,} left")
    return 1 if done.left else 0


@app.command
@on_stack
async def dismiss(parts: Core, name: str, position: int, *, reason: str) -> int:
    """Leave a parked event out of a read model for good, also in later rebuilds. Apply the events that waited for it.

    Ends with 1 when other events of the same stream stay parked. The event itself stays in the log. The audit trail
    says who dismissed it and why.

    Parameters
    ----------
    position
        Position of the event, as `status` shows it.
    reason
        Why, for those who read the audit trail.
    """
    (projection,) = find_projections([name])
    async with parts.pool.connection() as connection:
        parked = await find_parked(connection, projection, position)
        if parked is None:
            raise Fault(f"No event at position {position} is parked for {name}; see `testhide projections status`.")
        (first,) = await parked_events(connection, projection, 1, parked.stream)
    if first.position != position:
        raise Fault(
            f"The event at position {position} waits for the one at position {first.position} of {parked.stream}:"
            " dismiss that."
        )
    command = DismissEvent(name, position, reason, find_operator())
    await Handler(parts.log, utcnow).execute(command, CommandContext("system:operator"))
    done = await retry_events(parts.conninfo, parts.log, projection, parked.stream)
    for error in done.errors:
        print(error)
    print(f"dismissed {parked.stream} at position {position}; {done.left:,} parked events of its stream are left")
    return 1 if done.left else 0


def _describe_progress(item: ReadModelStatus) -> str:
    if item.progress is None:
        return ""
    return f"  {item.progress:.0%}" + (f", {item.eta_s:,} s to go" if item.eta_s is not None else "")


def _describe_diff(found: Diff) -> list[str]:
    lines = [
        f"{found.name}: live version {found.live_version}, staging version {found.staging_version},"
        f" both at position {found.position:,}"
    ]
    for table in found.tables:
        counts = {"changed": table.changed, "only live": table.only_live, "only staging": table.only_staging}
        differences = [f"{count:,} {words}" for words, count in counts.items() if count]
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
