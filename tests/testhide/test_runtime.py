"""How processes end."""

import subprocess
import sys

import pytest

from testhide.version import VERSION

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


WAKES_LATE = """
import atexit, sys
from testhide.cli import main

atexit.register(print, "finalized")
sys.argv[1:] = {arguments}
main.run()
"""


@pytest.mark.parametrize(("arguments", "code", "output"), [(["--version"], 0, VERSION), (["no-verb"], 2, "")])
def test_a_verb_ends_with_its_code_whatever_a_thread_of_a_library_still_does(
    arguments: list[str], code: int, output: str
) -> None:
    """A thread of obstore that wakes a loop while Python is finalized would abort the process."""
    command = [sys.executable, "-P", "-c", WAKES_LATE.format(arguments=arguments)]
    done = subprocess.run(command, capture_output=True, text=True, timeout=30, check=False)
    assert (done.returncode, done.stdout.strip()) == (code, output)
    assert ("no-verb" in done.stderr + done.stdout) == (code != 0)
