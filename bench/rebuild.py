"""Measures a rebuild of all read models during writes, and the library's runner for comparison: `./dev bench rebuild`.

Fills the log with a generated history (bench/history/company.py) and lets the live projector catch up. Then `testhide
projections rebuild` rebuilds all read models while clients post 50 comments a second and read some of them back, and
`testhide projections diff` compares all rows. Finally the `eventsourcing` library's ProjectionRunner
(bench/support/stock_runner.py) processes the same events for some seconds.
"""

import argparse
import asyncio
import contextlib
import itertools
import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor

import psycopg

from bench.history.write import Written, write_history
from bench.support import stock_runner
from bench.support.http import Connection
from bench.support.report import Report, percentile
from bench.support.stack import Stack, running_stack
from projections.registry import PROJECTIONS
from store.key_ring.ring import load_secrets
from store.tables.log_positions import MIN_SKIP

WRITES_A_SECOND = 50
CLIENTS = 10
READ_BACK_EVERY = 10
"""Number of comments of which one is read back after its answer."""
COMMENTED_BUILDS = 1_000
NAMES = [projection.name for projection in PROJECTIONS]
CATCH_UP_TIMEOUT_S = 3_600.0
QUIET_S = 15.0
"""Seconds for which the log must not grow before the stack counts as idle."""
STOCK_S, STOCK_SHORT_S = 20.0, 4.0
"""Seconds for which the library's runner is measured: the first with bounds on speed, the second without."""


class Writer:
    """Posts comments on builds at a fixed rate, even if answers take long, and reads some comments back."""

    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self.seconds: list[float] = []
        """Seconds from each POST to its answer."""
        self.failed = 0
        self.unread = 0
        """Number of acknowledged comments that their build did not show when it was read back."""

    @contextlib.contextmanager
    def writing(self) -> Iterator[None]:
        """Posts comments until the block ends. Raises ConnectionLost at the end of the block."""
        pages = [
            self._stack.call("GET", f"/api/v3/builds?limit=100&page={page}")
            for page in range(1, COMMENTED_BUILDS // 100 + 1)
        ]
        builds = [build["id"] for page in pages for build in page["results"]]
        stop = threading.Event()
        with ThreadPoolExecutor(1) as executor:
            written = executor.submit(asyncio.run, self._write(stop, builds))
            try:
                yield
            finally:
                stop.set()
            written.result()

    async def _write(self, stop: threading.Event, builds: list[int]) -> None:
        await asyncio.gather(*(self._client(stop, number, builds[number::CLIENTS]) for number in range(CLIENTS)))

    async def _client(self, stop: threading.Event, number: int, builds: list[int]) -> None:
        connection = await Connection.open(self._stack.port, self._stack.token)
        due = time.monotonic() + number / WRITES_A_SECOND
        for build in itertools.cycle(builds):
            if stop.is_set():
                break
            path = f"/api/v3/builds/{build}"
            begun = time.monotonic()
            status, _, written = await connection.send(
                connection.prepare("POST", f"{path}/comment", b'{"text": "a word"}')
            )
            self.seconds.append(time.monotonic() - begun)
            if status != 201:
                self.failed += 1
            elif len(self.seconds) % READ_BACK_EVERY == 0:
                _, _, shown = await connection.send(connection.prepare("GET", path))
                ids = [item["id"] for item in json.loads(shown)["comments"]]
                self.unread += json.loads(written)["id"] not in ids
            due += CLIENTS / WRITES_A_SECOND
            await asyncio.sleep(due - time.monotonic())
        connection.close()


def run_projections(stack: Stack, verb: str, *arguments: str) -> None:
    """Runs `testhide projections VERB`. Raises subprocess.CalledProcessError."""
    environment = {name: value for name, value in os.environ.items() if not name.startswith("TESTHIDE_")}
    environment["TESTHIDE_SETTINGS"] = str(stack.data / "run" / "settings.json")
    command = [sys.executable, "-P", "-m", "testhide", "projections", verb, *arguments]
    subprocess.run(command, env=environment, check=True, stdout=sys.stderr)


def fetch_head(stack: Stack) -> int:
    return _fetch_number(stack, "SELECT max(notification_id) FROM stored_events")


def fetch_projected(stack: Stack) -> int:
    return _fetch_number(stack, "SELECT min(position) FROM projection_positions")


def _fetch_number(stack: Stack, query: str) -> int:
    with psycopg.connect(stack.settings.database_url, autocommit=True) as connection:
        row = connection.execute(query.encode()).fetchone()
    assert row is not None
    return int(row[0])


def wait_until_quiet(stack: Stack) -> None:
    """Waits until all readers of the log have caught up and nothing was appended for QUIET_S."""
    deadline = time.monotonic() + CATCH_UP_TIMEOUT_S
    since, seen = time.monotonic(), 0
    while time.monotonic() - since < QUIET_S:
        assert time.monotonic() < deadline, "the stack does not catch up with the log"
        reached = fetch_head(stack)
        is_behind = fetch_projected(stack) < reached or _fetch_number(stack, "SELECT count(*) FROM due_reactions") > 0
        is_behind |= _fetch_number(stack, "SELECT min(position) FROM reaction_positions") < reached - MIN_SKIP
        if is_behind or reached != seen or _fetch_number(stack, "SELECT max(size) FROM audit_checkpoints") < reached:
            since, seen = time.monotonic(), reached
        time.sleep(0.2)


def skip_reactions(stack: Stack) -> None:
    """Moves all workers to the end of the log, where they would be if the server had written the history itself. They
    take a quarter of an hour to follow a million events.
    """
    with psycopg.connect(stack.settings.database_url, autocommit=True) as connection:
        # Waits for the batches that workers apply now.
        connection.execute(
            "UPDATE reaction_positions SET position = head"
            " FROM (SELECT max(notification_id) AS head FROM stored_events) log WHERE position < head"
        )
        connection.execute("DELETE FROM due_reactions")


def vacuum(stack: Stack) -> None:
    """Vacuums the database, as autovacuum would do within minutes after the bulk insert."""
    with psycopg.connect(stack.settings.database_url, autocommit=True) as connection:
        connection.execute("VACUUM ANALYZE")


def fill_log(stack: Stack, events: int, results: int, report: Report) -> Written:
    begun = time.monotonic()
    settings = stack.settings
    secrets = asyncio.run(load_secrets(settings.database_url, settings.secret_key))
    written = write_history(settings.database_url, secrets, events=events, results=results)
    vacuum(stack)
    report.add("history: events", written.last - written.first, "events")
    report.add("history: results", written.results, "results")
    report.add("history: types of events", len(written.types), "types")
    report.add("history: builds with destroyed keys", written.erased_builds / written.builds * 100, "%")
    report.add("history: written in", time.monotonic() - begun, "s")
    return written


def wait_for_live_projector(stack: Stack, written: Written, report: Report) -> None:
    begun = time.monotonic()
    while fetch_projected(stack) < written.last:
        time.sleep(0.1)
    report.add("live projector, catching up", (written.last - written.first) / (time.monotonic() - begun), "events/s")


@contextlib.contextmanager
def paused_projector(stack: Stack) -> Iterator[None]:
    """Pauses the idle projector by SIGSTOP until the block ends. Waits first until it has no open transaction."""
    pid = stack.pids["project"]
    os.kill(pid, signal.SIGSTOP)
    try:
        yield
    finally:
        os.kill(pid, signal.SIGCONT)


@contextlib.contextmanager
def built_read_models(stack: Stack) -> Iterator[None]:
    """Builds all read models anew once the block has written a history, which the projector would follow slowly."""
    with paused_projector(stack):
        yield
        run_projections(stack, "rebuild", *NAMES, "--switch")
    run_projections(stack, "drop", *NAMES)
    vacuum(stack)


def measure(stack: Stack, writer: Writer, written: Written, report: Report, *, bounds: bool) -> None:
    """Measures rebuild, diff and the library's runner. There are always bounds for correctness; only with `bounds`
    there are bounds for speed.
    """
    wait_until_quiet(stack)
    with writer.writing():
        begun = time.monotonic()
        run_projections(stack, "rebuild", *NAMES, "--from-scratch")
        seconds = time.monotonic() - begun
    events = (written.last - written.first) / seconds  # without the events that the workers have appended
    report.add("rebuild", seconds, "s")
    report.add("rebuild: events", events, "events/s", at_least=20_000 if bounds else None)
    report.add("rebuild: results", written.results / seconds, "results/s", at_least=200_000 if bounds else None)
    report.add("writes meanwhile", len(writer.seconds) / seconds, "writes/s", at_least=45 if bounds else 1)
    report.add("writes meanwhile: failed", writer.failed, "writes", at_most=0)
    report.add("writes meanwhile: not read back", writer.unread, "writes", at_most=0)
    report.add("writes meanwhile: p50", percentile(writer.seconds, 50) * 1000, "ms")
    report.add("writes meanwhile: p99", percentile(writer.seconds, 99) * 1000, "ms")
    begun = time.monotonic()
    try:
        run_projections(stack, "diff", *NAMES)
        differing = 0
    except subprocess.CalledProcessError:
        differing = 1
    report.add("diff", time.monotonic() - begun, "s")
    report.add("diff: read models differ", differing, "", at_most=0)
    stock_s = STOCK_S if bounds else STOCK_SHORT_S
    theirs = stock_runner.measure_read_models(stack.settings.database_url, written.last, stock_s)
    report.add("library's ProjectionRunner, same read models", theirs, "events/s")
    report.add("ratio", events / theirs, "times", at_least=10 if bounds else None)
    of_builds = stock_runner.measure_builds(stack.settings.database_url, written.last, stock_s)
    report.add("library's ProjectionRunner, a table of builds only", of_builds, "events/s")
    report.add("ratio to that", events / of_builds, "times")


def main() -> int:
    parser = argparse.ArgumentParser(description="Rebuild all read models while clients write.")
    parser.add_argument("--events", type=int, default=50_000)
    parser.add_argument("--results", type=int, default=1_000_000)
    options = parser.parse_args()
    report = Report("rebuild")
    with running_stack(agent=False) as stack:
        writer = Writer(stack)
        written = fill_log(stack, options.events, options.results, report)
        wait_for_live_projector(stack, written, report)
        measure(stack, writer, written, report, bounds=False)
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
