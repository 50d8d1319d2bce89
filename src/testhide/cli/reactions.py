"""`testhide reactions`: show reactions to events, and retry parked ones."""

from cyclopts import App

from store.tables import log_positions, reactions
from testhide.cli.options import on_stack
from testhide.operator_errors import Fault
from testhide.processes import Core

app = App(name="reactions", help="What follows from events outside the log.")


@app.command
@on_stack
async def status(parts: Core) -> int:
    """Show each reaction's position in the log, how many events are due, and which are parked."""
    statuses = await reactions.fetch_statuses(parts.pool)
    beyond = await log_positions.find_beyond(parts.pool)
    head = await parts.log.read_head()
    print(f"{'name':<36} {'position':>12} {'lag':>10} {'due':>7} {'parked':>7}")
    for item in statuses:
        position = "-" if item.position is None else f"{item.position:,}"
        lag = "-" if item.position is None or item.name in beyond else f"{head - item.position:,}"
        print(f"{item.name:<36} {position:>12} {lag:>10} {item.due:>7,} {item.parked:>7,}")
        if item.name in beyond:
            print(f"    stands still: {beyond[item.name]}: run `testhide repair`")
        for error in item.errors:
            print(f"    parked: {error}")
    return 0


@app.command
@on_stack
async def retry(parts: Core, name: str | None = None) -> int:
    """Make the parked events of one reaction, or of all reactions, due again."""
    async with parts.pool.connection() as connection:
        known = [item.name for item in await reactions.fetch_statuses(connection)]
        if name is not None and name not in known:
            raise Fault(f"There is no reaction {name!r}; there are: {', '.join(known) or 'none yet'}.", 2)
        count = await reactions.retry_parked(connection, name)
    print(f"{count:,} parked events are due again; a running `testhide work` takes them up within seconds")
    return 0
