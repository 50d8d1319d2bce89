"""Writes a generated history (bench/history/company.py) into an empty log by COPY, encoded as the server encodes it.

python -m bench.history.write postgresql://... --events 50000 --results 1000000 --secret-key HEX
"""

import argparse
import asyncio
import time
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import datetime, timedelta

import psycopg
from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from eventsourcing.persistence import StoredEvent

from bench.history.company import Company
from bench.history.world import BEGIN, Commits
from domain.core.data_keys import lineage
from domain.core.events import EventMetadata
from domain.registry import EVENTS, UPCASTERS
from store.crypto.secrets import Secrets
from store.key_ring.ring import load_secrets
from store.log.codec import EventMapper
from store.log.ids import APPEND_LOCK
from store.log.row_macs import add_mac
from store.migrations.baseline import SEQUENCES

FIRST_ID = 1_000
"""Lowest id in the history. It is above all ids that a server draws at its first start."""
LAST_ID = 1_000_000_000
"""Value to which the id sequences are set after the history is written. It is above all ids in the history."""


@dataclass
class Written:
    first: int
    """Last position before the history."""
    last: int
    """Position of the last event of the history."""
    results: int
    erased_builds: int
    builds: int
    types: Counter[str] = field(default_factory=Counter)


class Encoder:
    """Turns commits into stored events, and creates and destroys the data keys that they need."""

    def __init__(self, secrets: Secrets, versions: dict[str, int]) -> None:
        self._secrets = secrets
        self._mapper = EventMapper(EVENTS, UPCASTERS)
        self._versions = Counter(versions)
        self._keys: dict[str, AESGCM] = {}
        self.wrapped: dict[str, bytes | None] = {}
        """Rows for the table of data keys: name -> wrapped key, or None for a destroyed key."""
        self.types: Counter[str] = Counter()

    def encode(self, commits: Commits, begin: datetime, interval: timedelta) -> Iterator[StoredEvent]:
        for number, commit in enumerate(commits):
            at = begin + interval * (number + 1)
            metadata = EventMetadata(at, "user:1000", f"request-{number}")
            for event in commit:
                version = self._versions[event.stream] = self._versions[event.stream] + 1
                key = self._key(event.data_key) if event.sealed and event.data_key else None
                self.types[event.name] += 1
                row = self._mapper.encode(event.stream, version, event, metadata, key)
                yield add_mac(self._secrets.rows_key, row)
                if event.erases is not None:
                    self._erase(event.erases)

    def _key(self, name: str) -> AESGCM:
        if name not in self._keys:
            above = lineage(name)[:-1]
            parent = self._key(above[-1]) if above else None
            self._keys[name], self.wrapped[name] = self._secrets.new_data_key(name, parent)
        return self._keys[name]

    def _erase(self, name: str) -> None:
        if name in self.wrapped:
            self.wrapped[name] = None


def write_history(conninfo: str, secrets: Secrets, *, events: int, results: int, seed: int = 1) -> Written:
    """Writes a history with about `events` events and `results` results. Blocks until it is written. Other processes
    wait meanwhile before they append.
    """
    company = Company(events, results, seed, FIRST_ID)
    first, last, types = write_commits(conninfo, secrets, company.commits(), BEGIN, timedelta(milliseconds=400))
    return Written(first, last, company.results, company.erased, types["build.queued"], types)


def write_commits(
    conninfo: str, secrets: Secrets, commits: Commits, begin: datetime, interval: timedelta
) -> tuple[int, int, Counter[str]]:
    """Writes commits, one every `interval`. Returns the last position before them, that of their last event, and how
    many events there are of each type.
    """
    with psycopg.connect(conninfo) as connection, connection.cursor() as cursor:
        # Processes of the server may still append their first events: they wait until the history is written.
        cursor.execute(APPEND_LOCK.encode())
        cursor.execute("SELECT coalesce(max(notification_id), 0) FROM stored_events")
        ((first,),) = cursor.fetchall()
        position = int(first)
        # Streams that a server's first start has written continue with their next version.
        cursor.execute("SELECT originator_id, max(originator_version) FROM stored_events GROUP BY 1")
        encoder = Encoder(secrets, dict(cursor.fetchall()))
        with cursor.copy(
            "COPY stored_events (notification_id, originator_id, originator_version, topic, state)"
            " FROM STDIN (FORMAT binary)"
        ) as copy:
            copy.set_types(["int8", "text", "int8", "text", "bytea"])
            for stored in encoder.encode(commits, begin, interval):
                position += 1
                copy.write_row((position, stored.originator_id, stored.originator_version, stored.topic, stored.state))
        with cursor.copy("COPY stored_events_keys (name, wrapped, destroyed_at) FROM STDIN (FORMAT binary)") as copy:
            copy.set_types(["text", "bytea", "timestamptz"])
            for name, wrapped in encoder.wrapped.items():
                copy.write_row((name, wrapped, BEGIN if wrapped is None else None))
        cursor.execute("SELECT setval(pg_get_serial_sequence('stored_events', 'notification_id'), %s)", (position,))
        for name in SEQUENCES:
            cursor.execute(f"SELECT setval('{name}_ids', {LAST_ID})".encode())
    with psycopg.connect(conninfo, autocommit=True) as connection:
        connection.execute("ANALYZE stored_events")
    return first, position, encoder.types


def main() -> None:
    parser = argparse.ArgumentParser(description="Fill an empty log with a generated history.")
    parser.add_argument("database")
    parser.add_argument("--secret-key", required=True, help="64 hex digits, as in TESTHIDE_SECRET_KEY")
    parser.add_argument("--events", type=int, default=50_000)
    parser.add_argument("--results", type=int, default=1_000_000)
    parser.add_argument("--seed", type=int, default=1)
    options = parser.parse_args()
    begun = time.perf_counter()
    written = write_history(
        options.database,
        asyncio.run(load_secrets(options.database, bytes.fromhex(options.secret_key))),
        events=options.events,
        results=options.results,
        seed=options.seed,
    )
    seconds = time.perf_counter() - begun
    print(f"{written.last - written.first:,} events with {written.results:,} results in {seconds:.1f} s")
    for name, number in written.types.most_common():
        print(f"{number:>9,}  {name}")


if __name__ == "__main__":
    main()
