"""The data keys of the log: looks them up, makes new ones, and remembers which were destroyed."""

import contextlib
import copy
import time
from collections.abc import Collection, Iterable, Mapping
from itertools import chain

from cryptography.hazmat.primitives.ciphers.aead import AESGCM
from psycopg import AsyncConnection

from domain.core.data_keys import lineage
from domain.core.errors import Erased
from domain.core.events import Event
from store.crypto.secrets import SecretMismatch, Secrets
from store.log.codec import KeyOf, UnreadableEvent
from store.log.selects import is_among
from store.postgres.queries import Source, fetch_rows

MAX_CACHED_KEYS = 5_000
"""Number of data keys above which a process empties its cache of data keys. So many keys take 12 MB."""
KEY_CACHE_LIFETIME_S = 60.0
"""Seconds after which a process empties its cache of data keys. Until then it may still use a key that another process
has destroyed.
"""
MAX_TRIED_KEYS = 100
"""Largest number of data keys that `check_secret` tries. If none of them decrypts, the server's secret key is wrong."""

DOES_NOT_OPEN = "does not open"
IS_MISSING = "is missing"


class DataKeys:
    def __init__(self, source: Source, secrets: Secrets) -> None:
        self._source = source
        self._secrets = secrets
        self._cache: dict[str, AESGCM | None] = {}
        """Name -> data key, or None for a destroyed key. The cache is emptied after KEY_CACHE_LIFETIME_S."""
        self._cached_since = time.monotonic()

    def on(self, connection: AsyncConnection) -> "DataKeys":
        """Returns a copy that shares the cache of this object, and reads over the caller's `connection`."""
        reader = copy.copy(self)
        reader._source = connection
        return reader

    def clear_cache(self) -> None:
        self._cache.clear()
        self._cached_since = time.monotonic()

    def remember(self, keys: Mapping[str, AESGCM | None]) -> None:
        """Adds to the cache the keys that the caller has just stored in the database."""
        self._cache.update(keys)

    async def load(self, names: Iterable[str]) -> dict[str, AESGCM | None]:
        """Returns data keys by name. The value is None if the key, or the key that wraps it, was destroyed.

        Leaves out a key that was never made or whose row is lost, and a key whose wrapping key is lost. Raises
        SecretMismatch for a key that does not unwrap.
        """
        lines = {name: lineage(name) for name in names}
        wanted = list(chain.from_iterable(lines.values()))  # each key comes after those above it
        if len(self._cache) > MAX_CACHED_KEYS or time.monotonic() - self._cached_since > KEY_CACHE_LIFETIME_S:
            self.clear_cache()
        keys = {name: self._cache[name] for name in wanted if name in self._cache}
        if missing := list(dict.fromkeys(name for name in wanted if name not in keys)):
            condition, values = is_among("name", missing)
            query = f"SELECT name, wrapped FROM stored_events_keys WHERE {condition}"
            stored: dict[str, bytes | None] = dict(await fetch_rows(self._source, query, values))
            for name in filter(stored.__contains__, missing):
                above, _, _ = name.rpartition("/")
                if (wrapped := stored[name]) is None:
                    keys[name] = None
                elif not above:
                    keys[name] = self._secrets.unwrap(name, wrapped)
                elif above in keys:
                    parent = keys[above]
                    keys[name] = None if parent is None else self._secrets.unwrap(name, wrapped, parent)
            for name in filter(keys.__contains__, missing):
                self._cache.setdefault(name, keys[name])  # keeps the None of an erasure that was read in the meantime
        return {
            name: None if None in map(keys.get, line) else keys[name] for name, line in lines.items() if name in keys
        }

    async def load_with_faults(self, names: Collection[str]) -> tuple[dict[str, AESGCM | None], dict[str, str]]:
        """Returns two dicts: the data keys by name (None for a destroyed key), and the faults by name. A fault is
        DOES_NOT_OPEN or IS_MISSING.
        """
        faults: dict[str, str] = {}
        try:
            keys = await self.load(names)
        except SecretMismatch:
            keys = {}
            for name in names:
                try:
                    keys |= await self.load([name])
                except SecretMismatch:
                    faults[name] = DOES_NOT_OPEN
        return keys, faults | {name: IS_MISSING for name in names if name not in keys and name not in faults}

    async def lookup(self, names: Collection[str]) -> tuple[dict[str, AESGCM | None], KeyOf]:
        """Returns (keys, key_of). `keys` maps names to data keys that can be read; a destroyed key is None.

        `key_of(name)` is for decoding events. It returns the data key, or None if the key was destroyed. It raises
        UnreadableEvent for a damaged or missing key, so that only events whose key was destroyed read as erased.

        Raises SecretMismatch if the server has the wrong secret key.
        """
        keys, faults = await self.load_with_faults(names)
        if DOES_NOT_OPEN in faults.values():
            await self.check_secret()

        def key_of(name: str) -> AESGCM | None:
            if name in faults:
                raise UnreadableEvent(f"the data key {name} {faults[name]}")
            return keys[name]

        return keys, key_of if faults else keys.__getitem__

    async def find_destroyed(self, names: Iterable[str]) -> set[str]:
        """Returns the names among `names` whose data key was destroyed, or is wrapped by a key that was destroyed.
        Reads the database, not the cache.
        """
        lines = {name: lineage(name) for name in names}
        wanted = list({above for line in lines.values() for above in line})
        query = "SELECT name FROM stored_events_keys WHERE name = ANY (%s) AND wrapped IS NULL"
        destroyed = {name for (name,) in await fetch_rows(self._source, query, (wanted,))}
        return {name for name, line in lines.items() if not destroyed.isdisjoint(line)}

    async def load_or_make(
        self, needed: Mapping[str, bool]
    ) -> tuple[dict[str | None, AESGCM], list[tuple[str, bytes]]]:
        """Loads data keys, and makes those that are missing. `needed` maps the name of each key to whether the stream
        after which the key is named begins now.

        Returns (keys, new). `keys` has the data keys with these names, and the keys that wrap them, by name. `new` has
        (name, wrapped key) for each key that this call made; the caller stores these. Raises Erased if one of the data
        keys was destroyed.
        """
        # A key is named after a stream, whose first event makes it. So if the stream begins now, there is no key yet.
        known = await self.load(
            above for name, is_first in needed.items() for above in lineage(name)[: -1 if is_first else None]
        )
        keys: dict[str | None, AESGCM] = {}
        new: list[tuple[str, bytes]] = []
        for name in needed:
            parent = None
            for above in lineage(name):
                if above not in keys and above not in known:
                    keys[above], wrapped = self._secrets.new_data_key(above, parent)
                    new.append((above, wrapped))
                elif (key := keys.get(above) or known[above]) is None:
                    raise Erased(f"{above.rpartition('/')[2]} was erased; nothing can be added to it.")
                else:
                    keys[above] = key
                parent = keys[above]
        return keys, new

    async def check_secret(self) -> None:
        """Tries the server's secret key on up to MAX_TRIED_KEYS data keys. Raises SecretMismatch if there are data keys
        and none of them opens.
        """
        query = (
            "SELECT name, wrapped FROM stored_events_keys WHERE wrapped IS NOT NULL AND name NOT LIKE '%%/%%' LIMIT %s"
        )
        rows = await fetch_rows(self._source, query, (MAX_TRIED_KEYS,))
        for name, wrapped in rows:
            with contextlib.suppress(SecretMismatch):
                self._secrets.unwrap(name, wrapped)
                return
        if rows:
            raise SecretMismatch(
                "no data key of this log opens: is TESTHIDE_SECRET_KEY the one that it was written with?"
            )

    def forget(self, events: Iterable[Event]) -> set[str]:
        """Records in the cache that these events destroyed data keys. Returns the names of the destroyed keys."""
        erased = {name for event in events if (name := event.erases) is not None}
        self._cache.update(dict.fromkeys(erased))
        return erased
