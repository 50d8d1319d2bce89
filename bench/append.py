"""Compares the appends per second of our recorder and of the `eventsourcing` library's recorder: `./dev bench append`.

Asyncio tasks call our recorder, threads call the library's. Every event has 300 bytes and a new stream; fsync is on.
Short rounds of the two recorders alternate, so that other load on the machine slows both. Figures are medians of the
rounds.
"""

import argparse
import asyncio
import sys
import time
from collections.abc import Iterator
from itertools import count
from threading import Thread

import psycopg
import uvloop
from eventsourcing.persistence import StoredEvent
from eventsourcing.postgres import PostgresApplicationRecorder, PostgresDatastore
from psycopg.conninfo import conninfo_to_dict
from tests.support.engines import temporary_engines

from bench.support.report import Report, median
from store.log.append import GroupCommit, Request
from store.log.recorder import GroupCommitRecorder, datastore

EVENT_BYTES = bytes(300)
MIN_RATIO = {1: 1.5, 16: 8.0}
"""Number of concurrent callers -> least ratio of our rate to the library's rate."""


def measure_ours(conninfo: str, callers: int, seconds: float, streams: Iterator[int]) -> float:
    """Measures for `seconds`. Returns the appends per second of our group commit."""

    async def run() -> float:
        commit = GroupCommit(conninfo, table="ours")
        await commit.append(_request(streams))  # opens the connection and prepares the statement
        end = time.perf_counter() + seconds

        async def caller() -> int:
            done = 0
            while time.perf_counter() < end:
                await commit.append(_request(streams))
                done += 1
            return done

        begin = time.perf_counter()
        done = sum(await asyncio.gather(*(caller() for _ in range(callers))))
        rate = done / (time.perf_counter() - begin)
        await commit.close()
        return rate

    return uvloop.run(run())


def measure_library(
    recorder: PostgresApplicationRecorder, callers: int, seconds: float, streams: Iterator[int]
) -> float:
    """Measures for `seconds`. Returns the appends per second of the library's recorder."""
    counts: list[int] = []
    recorder.insert_events([_event(streams)])
    end = time.perf_counter() + seconds

    def caller() -> None:
        done = 0
        while time.perf_counter() < end:
            recorder.insert_events([_event(streams)])
            done += 1
        counts.append(done)

    threads = [Thread(target=caller) for _ in range(callers)]
    begin = time.perf_counter()
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    return sum(counts) / (time.perf_counter() - begin)


def _event(streams: Iterator[int]) -> StoredEvent:
    return StoredEvent(f"build-{next(streams)}", 1, "build.queued", EVENT_BYTES)


def _request(streams: Iterator[int]) -> Request:
    return Request([_event(streams)])


def _library_store(conninfo: str) -> PostgresDatastore:
    parts = {name: str(value) for name, value in conninfo_to_dict(conninfo).items()}
    return PostgresDatastore(
        dbname=parts["dbname"],
        host=parts["host"],
        port=parts.get("port", "5432"),
        user=parts["user"],
        password=parts["password"],
        originator_id_type="text",
        pool_size=16,  # one for each caller, so that none waits for a connection
        max_overflow=4,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description="Compare appends per second with the library's recorder.")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=0.7, help="length of one round")
    options = parser.parse_args()
    report = Report("append")
    streams = count(1)
    with temporary_engines() as engines:
        ours_store = datastore(engines.database_url)
        ours_recorder = GroupCommitRecorder(ours_store, events_table_name="ours")
        ours_recorder.create_table()
        library_store = _library_store(engines.database_url)
        stock = PostgresApplicationRecorder(library_store, events_table_name="library")
        stock.create_table()
        with psycopg.connect(engines.database_url, autocommit=True) as connection:
            assert connection.execute("SHOW fsync").fetchone() == ("on",)
        rounds: dict[int, list[tuple[float, float]]] = {callers: [] for callers in MIN_RATIO}
        for _ in range(options.rounds):
            for callers in MIN_RATIO:
                rounds[callers].append(
                    (
                        measure_ours(engines.database_url, callers, options.seconds, streams),
                        measure_library(stock, callers, options.seconds, streams),
                    )
                )
        for store in (ours_store, library_store):
            store.close()
    for callers, rates in rounds.items():
        mine, theirs = (median([rate[which] for rate in rates]) for which in (0, 1))
        ratio = median([rate[0] / rate[1] for rate in rates])
        report.add(f"ours, {callers} callers", mine, "appends/s")
        report.add(f"library, {callers} callers", theirs, "appends/s")
        report.add(f"ratio, {callers} callers", ratio, "times", at_least=MIN_RATIO[callers])
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
