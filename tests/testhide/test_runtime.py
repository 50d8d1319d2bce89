"""How processes end."""

import subprocess
import sys

STUBBORN = """
import asyncio
from testhide import runtime

async def stubborn():
    try:
        await asyncio.sleep(600)
    except asyncio.CancelledError:
        await asyncio.sleep(600)  # as psycopg does when a cancellation comes together with what it waits for

async def main():
    asyncio.create_task(stubborn(), name="left")
    await asyncio.sleep(0)
    raise ValueError("over")

runtime.run(main())
"""


def test_what_has_lost_its_cancellation_keeps_no_process_from_ending() -> None:
    done = subprocess.run(
        [sys.executable, "-P", "-c", STUBBORN], capture_output=True, text=True, timeout=30, check=False
    )
    assert done.returncode == 1
    assert done.stderr.endswith("ValueError: over\n")
