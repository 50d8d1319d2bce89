"""Builds read models in two processes, since one core is not enough: results are as much work as all the rest.

The second process is told its settings by its standard input, and ends when that does: with the first one.
"""

import asyncio
import os
import sys
import threading
from collections.abc import Sequence
from contextlib import suppress

import msgspec

from projections.engine.model import Projection
from projections.rebuild.rebuild import Told, build
from projections.registry import PROJECTIONS
from testhide.operator_errors import Fault
from testhide.processes import Core, core
from testhide.settings import Settings

APART = ("results",)
"""What is built in the second process."""


class Order(msgspec.Struct):
    settings: Settings
    from_scratch: bool


async def build_together(
    settings: Settings, parts: Core, projections: Sequence[Projection], *, from_scratch: bool, told: Told
) -> int:
    """As `projections.rebuild.rebuild.build`. Raises Fault too."""
    apart = [projection for projection in projections if projection.name in APART]
    others = [projection for projection in projections if projection not in apart]
    if not apart or not others:
        return await build(parts.conninfo, parts.log, projections, from_scratch=from_scratch, told=told)
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", "testhide.cli.bulk_load", stdin=asyncio.subprocess.PIPE
    )
    assert process.stdin is not None
    try:
        process.stdin.write(msgspec.json.encode(Order(settings, from_scratch)) + b"\n")
        await process.stdin.drain()
        await build(parts.conninfo, parts.log, others, from_scratch=from_scratch, told=told)
        if await process.wait() != 0:
            raise Fault(f"{', '.join(APART)} could not be built; what it said stands above.")
    finally:
        with suppress(ProcessLookupError):
            process.kill()
        await process.wait()
    # What came meanwhile is little: the tables shall stand at one position.
    return await build(parts.conninfo, parts.log, projections, told=told)


async def _build_apart(order: Order) -> int:
    from testhide.cli.projections import ProgressPrinter

    chosen = [projection for projection in PROJECTIONS if projection.name in APART]
    async with core(order.settings, pool_size=2) as parts:
        told = ProgressPrinter(", ".join(APART))
        await build(parts.conninfo, parts.log, chosen, from_scratch=order.from_scratch, told=told)
    return 0


def _until_the_input_ends() -> None:
    # Not by `sys.stdin`, whose lock a thread that still reads would hold at the interpreter's end.
    while os.read(0, 4096):
        continue
    os._exit(1)


def main() -> int:
    from testhide.cli.projections import run

    order = msgspec.json.decode(sys.stdin.buffer.readline(), type=Order)
    threading.Thread(target=_until_the_input_ends, daemon=True).start()
    try:
        return run(_build_apart(order))
    except Fault as fault:
        print(fault, file=sys.stderr)
        return 1


if __name__ == "__main__":
    sys.exit(main())
