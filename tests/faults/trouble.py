"""The faults: drawn from a seed, done to a stack, undone before anything is checked."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import redis.asyncio

from tests.faults.proxy import Proxy
from tests.faults.stack import SERVERS, Stack

KILLED = ("agent", "agent", "serve", "work", "project", "dispatch", "postgres", "valkey")
PROCESSES = (*SERVERS, "agent", "postgres", "valkey")


@dataclass(frozen=True)
class Fault:
    after_s: float
    kind: str
    target: str = ""
    lasts_s: float = 0.0

    def __str__(self) -> str:
        lasts = f" for {self.lasts_s:.2f} s" if self.lasts_s else ""
        return f"+{self.after_s:.2f} s {self.kind} {self.target}{lasts}"


def drawn_faults(rng: random.Random, stack: Stack, within_s: float) -> list[Fault]:
    return sorted(
        (_drawn(rng, stack, rng.uniform(0, within_s)) for _ in range(rng.randrange(1, 4))),
        key=lambda fault: fault.after_s,
    )


def _drawn(rng: random.Random, stack: Stack, after_s: float) -> Fault:
    def one(kind: str) -> str:
        return rng.choice(stack.names(kind))

    kind = rng.choices(
        ("kill", "stop", "hold", "wipe", "cut", "delay", "deafen", "refuse", "lose", "replace", "full disk"),
        (8, 3, 2, 1, 2, 1, 2, 2, 3, 1, 1),
    )[0]
    match kind:
        case "kill":
            return Fault(after_s, kind, one(rng.choice(KILLED)))
        case "stop":
            return Fault(after_s, kind, one(rng.choice(PROCESSES)), rng.uniform(0.2, 3))
        case "hold":
            target = one(rng.choice(("valkey", "postgres", "serve", "dispatch")))
            return Fault(after_s, kind, target, rng.uniform(0.5, 4))
        case "delay" | "deafen" | "refuse":
            return Fault(after_s, kind, "connections", rng.uniform(0.5, 4))
        case "lose":
            return Fault(after_s, kind, str(rng.randrange(1, 8)))
        case "full disk":
            target = str(rng.randrange(len(stack.disks))) if stack.disks else ""
            return Fault(after_s, kind, target, rng.uniform(0.3, 2))
        case _:
            return Fault(after_s, kind)


class Trouble:
    def __init__(self, stack: Stack, proxy: Proxy) -> None:
        self._stack = stack
        self._proxy = proxy
        self.skipped: set[str] = set()
        """Faults that this machine does not allow."""

    async def make(self, fault: Fault) -> None:
        await asyncio.sleep(fault.after_s)
        await self._kinds[fault.kind](self, fault)

    async def undo(self) -> None:
        self._proxy.behave()
        self._stack.empty_disks()
        self._stack.release()
        await self._stack.all_run()

    async def _kill(self, fault: Fault) -> None:
        self._stack.kill(fault.target)

    async def _stop(self, fault: Fault) -> None:
        unit = self._stack.units[fault.target]
        stopped = list(unit.pids)
        self._stack.pause(stopped)
        await asyncio.sleep(fault.lasts_s)
        self._stack.resume(stopped)

    async def _hold(self, fault: Fault) -> None:
        self._stack.kill(fault.target, hold=True)
        await asyncio.sleep(fault.lasts_s)
        self._stack.units[fault.target].held = False

    async def _wipe(self, fault: Fault) -> None:
        client = redis.asyncio.Redis.from_url(self._stack.settings.redis_url)
        try:
            await client.flushall()
        except (redis.RedisError, OSError):
            return  # it is away: nothing is in it then
        finally:
            await client.aclose()

    async def _cut(self, fault: Fault) -> None:
        self._proxy.cut()

    async def _delay(self, fault: Fault) -> None:
        self._proxy.delay_s = 0.15
        await asyncio.sleep(fault.lasts_s)
        self._proxy.delay_s = 0.0

    async def _deafen(self, fault: Fault) -> None:
        """Connections stand still, then break."""
        self._proxy.hold()
        await asyncio.sleep(fault.lasts_s)
        self._proxy.cut()
        self._proxy.behave()

    async def _refuse(self, fault: Fault) -> None:
        self._proxy.refuses = True
        self._proxy.cut()
        await asyncio.sleep(fault.lasts_s)
        self._proxy.refuses = False

    async def _lose(self, fault: Fault) -> None:
        """What was asked is done, and who asked is not told."""
        self._proxy.lost += int(fault.target)

    async def _replace(self, fault: Fault) -> None:
        """As a new version is brought out: one process after the other, each told to end."""
        for kind in SERVERS:
            for name in self._stack.names(kind):
                self._stack.end(name)
                await asyncio.sleep(0.3)

    async def _full_disk(self, fault: Fault) -> None:
        if not fault.target:
            self.skipped.add(fault.kind)
            return
        await asyncio.to_thread(self._stack.fill_disk, self._stack.disks[int(fault.target)])
        await asyncio.sleep(fault.lasts_s)
        self._stack.empty_disks()

    _kinds: "dict[str, Callable[[Trouble, Fault], Awaitable[None]]]" = {
        "kill": _kill,
        "stop": _stop,
        "hold": _hold,
        "wipe": _wipe,
        "cut": _cut,
        "delay": _delay,
        "deafen": _deafen,
        "refuse": _refuse,
        "lose": _lose,
        "replace": _replace,
        "full disk": _full_disk,
    }
