"""Token buckets on Redis (or Valkey), shared by all processes of the server."""

import time

import structlog
from redis.asyncio import Redis
from redis.exceptions import RedisError

from integrations.ports import Taken

log = structlog.get_logger()

REFILL_S = 60
"""Seconds in which an empty bucket fills up."""
REDIS_TIMEOUT_S = 0.25
"""Longest time in seconds that a request waits for Redis."""
REDIS_PAUSE_S = 5.0
"""Seconds for which a process does not ask Redis again after Redis did not answer."""
PREFIX = "testhide:requests:"

_TAKE = f"""
local limit, wanted = tonumber(ARGV[1]), tonumber(ARGV[2])
local time = redis.call('TIME')
local now = time[1] + time[2] / 1000000
local stored = redis.call('HMGET', KEYS[1], 'tokens', 'at')
local tokens = tonumber(stored[1]) or limit
tokens = math.min(limit, tokens + math.max(0, now - (tonumber(stored[2]) or now)) * limit / {REFILL_S})
local taken = math.min(wanted, math.floor(tokens))
redis.call('HSET', KEYS[1], 'tokens', tokens - taken, 'at', now)
redis.call('EXPIRE', KEYS[1], {REFILL_S + 1})
return {{taken, math.floor(tokens - taken)}}
"""


class RedisTokenBuckets:
    def __init__(self, url: str) -> None:
        self._redis: Redis = Redis.from_url(url, socket_timeout=REDIS_TIMEOUT_S, socket_connect_timeout=REDIS_TIMEOUT_S)
        self._take = self._redis.register_script(_TAKE)
        self._is_away = False
        self._retry_at = 0.0

    async def take(self, key: str, limit: int, wanted: int) -> Taken | None:
        if time.monotonic() < self._retry_at:
            return None
        try:
            taken, left = await self._take(keys=[PREFIX + key], args=[limit, wanted])
        except (RedisError, OSError) as error:
            self._retry_at = time.monotonic() + REDIS_PAUSE_S
            if not self._is_away:
                self._is_away = True
                log.warning("requests are not limited: Redis does not answer", error=str(error))
            return None
        if self._is_away:
            self._is_away = False
            log.info("requests are limited again")
        return Taken(int(taken), int(left))

    async def close(self) -> None:
        await self._redis.aclose()
