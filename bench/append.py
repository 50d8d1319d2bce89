"""Appends per second: our recorder beside the library's, in one run: `python -m bench.append`.

Each is called the way it is made for: ours by asyncio tasks, the library's by threads. 300-byte events, each into a
stream of its own, fsync on. Short rounds of both alternate, so that whatever else the machine does meets both; medians.
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

from bench.support.report import Report, median
from store.log.append import GroupCommit, Request
from store.log.recorder import GroupCommitRecorder, datastore
from testhide.engines import temporary_engines

STATE = bytes(300)
BOUNDS = {1: 1.5, 16: 8.0}
"""Callers -> how many times the library's rate ours must be."""


def ours(conninfo: str, callers: int, seconds: float, streams: Iterator[int]) -> float:
    """Appends per second."""

    async def run() -> float:
        commit = GroupCommit(conninfo, table="ours")
        await commit.append(_request(streams))  # the connection and the prepared statement
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


def library(recorder: PostgresApplicationRecorder, callers: int, seconds: float, streams: Iterator[int]) -> float:
    """Appends per second."""
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
    return StoredEvent(f"build-{next(streams)}", 1, "build.queued", STATE)


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
        pool_size=16,  # one for each caller: it shall not wait for connections
        max_overflow=4,
    )


def main() -> int:
    parser = argparse.ArgumentParser(description="Appends per second beside the library's recorder.")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--seconds", type=float, default=0.7, help="of one round")
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
        rounds: dict[int, list[tuple[float, float]]] = {callers: [] for callers in BOUNDS}
        for _ in range(options.rounds):
            for callers in BOUNDS:
                rounds[callers].append(
                    (
                        ours(engines.database_url, callers, options.seconds, streams),
                        library(stock, callers, options.seconds, streams),
                    )
                )
        for store in (ours_store, library_store):
            store.close()
    for callers, rates in rounds.items():
        mine, theirs = (median([rate[which] for rate in rates]) for which in (0, 1))
        ratio = median([rate[0] / rate[1] for rate in rates])
        report.add(f"ours, {callers} callers", mine, "appends/s")
        report.add(f"library, {callers} callers", theirs, "appends/s")
        report.add(f"ratio, {callers} callers", ratio, "times", at_least=BOUNDS[callers])
    return report.finish()


if __name__ == "__main__":
    sys.exit(main())
