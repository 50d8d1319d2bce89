"""Measures the speed and the memory of sealing, exporting and verifying a log: `./dev bench sealing`.

The log is a generated history (bench/history/write.py). There is a bound only for memory: none of the three operations
may need more memory for a longer log.
"""

import argparse
import asyncio
import resource
import sys
import tempfile
import time
from pathlib import Path

from tests.support.engines import temporary_engines

from bench.history.write import write_history
from bench.support.report import Report
from commands.handler import Handler
from store.audit.checkpoints import AuditTree
from store.audit.export import Export
from store.audit.verifier import Verifier
from store.clock import utcnow
from testhide.preparation import migrate
from testhide.processes import core
from testhide.settings import Settings
from workers.sealer import Sealer

MAX_GROWTH_MB = 32.0


async def measure(settings: Settings, export: Path, report: Report) -> None:
    async with core(settings) as parts:
        sealer = Sealer(parts.conninfo, parts.pool, parts.log, Handler(parts.log, utcnow), parts.secrets, utcnow)
        async with sealer.hold_lock() as connection:
            begun = time.perf_counter()
            await sealer.seal(connection)
            seconds = time.perf_counter() - begun
        checkpoint = await AuditTree(parts.pool).checkpoint()
        assert checkpoint is not None
        report.add("sealed", checkpoint.size / seconds, "events/s")
        begun = time.perf_counter()
        with export.open("wb") as file:
            async for chunk in Export(parts.pool, parts.log, checkpoint).lines():
                file.write(chunk)
        report.add("exported", checkpoint.size / (time.perf_counter() - begun), "events/s")
    report.add("exported line", export.stat().st_size / checkpoint.size, "bytes")
    verifier = Verifier()
    begun = time.perf_counter()
    with export.open("rb") as lines:
        verifier.verify(lines)
    report.add("verified", checkpoint.size / (time.perf_counter() - begun), "events/s")
    assert verifier.findings == []


def read_peak_memory_mb() -> float:
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024


def main() -> int:
    parser = argparse.ArgumentParser(description="Measure sealing, exporting and verifying a log.")
    parser.add_argument("--events", type=int, default=100_000)
    options = parser.parse_args()
    report = Report("sealing")
    with temporary_engines() as engines, tempfile.TemporaryDirectory() as folder:
        settings = Settings(database_url=engines.database_url, redis_url="", secret_key=b"s" * 32, data_dir="")
        migrate(settings)
        asyncio.run(fill_log(settings, options.events))
        before = read_peak_memory_mb()
        asyncio.run(measure(settings, Path(folder, "export.ndjson"), report))
        report.add("growth of peak memory", read_peak_memory_mb() - before, "MB", at_most=MAX_GROWTH_MB)
    return report.finish()


async def fill_log(settings: Settings, events: int) -> None:
    async with core(settings) as parts:
        write_history(settings.database_url, parts.secrets, events=events, results=3 * events)


if __name__ == "__main__":
    sys.exit(main())
