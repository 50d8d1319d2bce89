"""The faults: drawn from a seed, done to a stack, undone before anything is checked."""

import asyncio
import random
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

import redis.asyncio

from tests.faults.proxy import Proxy
from tests.faults.stack import DATABASE, SERVERS, Stack

KILLED = ("agent", "agent", "serve", "work", "project", "dispatch", "postgres", "valkey")
PROCESSES = (*SERVERS, "agent", "postgres", "valkey")
KINDS = {
    "kill": 8,
    "stop": 3,
    "hold": 2,
    "wipe": 1,
    "cut": 2,
    "delay": 1,
    "deafen": 2,
    "leave": 1,
    "refuse": 2,
    "lose": 3,
    "replace": 1,
    "full disk": 2,
    "full log": 1,
}
"""How often each is drawn."""


@dataclass(frozen=True)
class Fault:
    after_s: float
    kind: str
    target: str = ""
    lasts_s: float = 0.0
    count: int = 0

    def __str__(self) -> str:
        lasts = f" for {self.lasts_s:.2f} s" if self.lasts_s else ""
        often = f" {self.count} times" if self.count else ""
        return f"+{self.after_s:.2f} s {self.kind} {self.target}{often}{lasts}"


def drawn_faults(rng: random.Random, stack: Stack, within_s: float) -> list[Fault]:
    return sorted(
        (_drawn(rng, stack, rng.uniform(0, within_s)) for _ in range(rng.randrange(1, 4))),
        key=lambda fault: fault.after_s,
    )


def _drawn(rng: random.Random, stack: Stack, after_s: float) -> Fault:
    def one(kind: str) -> str:
        return rng.choice(stack.names(kind))

    def way() -> str:
        """Of clients; of all processes to an engine; of one process to the database."""
        of_one = f"{DATABASE} of {one(rng.choice(SERVERS))}"
        return rng.choice(("api", "api", "api", of_one, of_one, DATABASE, "redis"))

    kind = rng.choices(list(KINDS), list(KINDS.values()))[0]
    match kind:
        case "kill":
            return Fault(after_s, kind, one(rng.choice(KILLED)))
        case "stop":
            return Fault(after_s, kind, one(rng.choice(PROCESSES)), rng.uniform(0.2, 3))
        case "hold":
            target = one(rng.choice(("valkey", "postgres", "serve", "dispatch")))
            return Fault(after_s, kind, target, rng.uniform(0.5, 4))
        case "cut":
            return Fault(after_s, kind, way())
        case "delay" | "deafen" | "leave" | "refuse":
            return Fault(after_s, kind, way(), rng.uniform(0.5, 4))
        case "lose":
            return Fault(after_s, kind, way(), count=rng.randrange(1, 8))
        case "full disk":
            return Fault(after_s, kind, rng.choice((DATABASE, one("agent"))), rng.uniform(0.3, 2))
        case "full log":
            return Fault(after_s, kind, DATABASE, rng.uniform(0.5, 2))
        case _:
            return Fault(after_s, kind)


class Trouble:
    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self.skipped: set[str] = set()
        """Faults that this machine does not allow."""

    async def make(self, fault: Fault) -> None:
        await asyncio.sleep(fault.after_s)
        await self._kinds[fault.kind](self, fault)

    async def undo(self) -> None:
        for proxy in self._stack.ways.values():
            proxy.behave()
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

    def _ways(self, fault: Fault) -> list[Proxy]:
        return [proxy for name, proxy in self._stack.ways.items() if name.startswith(fault.target)]

    async def _cut(self, fault: Fault) -> None:
        for proxy in self._ways(fault):
            proxy.cut()

    async def _delay(self, fault: Fault) -> None:
        for proxy in self._ways(fault):
            proxy.delay_s = 0.15
        await asyncio.sleep(fault.lasts_s)
        for proxy in self._ways(fault):
            proxy.delay_s = 0.0

    async def _deafen(self, fault: Fault) -> None:
        """Connections stand still, then break."""
        for proxy in self._ways(fault):
            proxy.hold()
        await self._break_after(fault)

    async def _leave(self, fault: Fault) -> None:
        """The same, but the far end takes them for broken from the beginning."""
        for proxy in self._ways(fault):
            proxy.leave()
        await self._break_after(fault)

    async def _break_after(self, fault: Fault) -> None:
        await asyncio.sleep(fault.lasts_s)
        for proxy in self._ways(fault):
            proxy.cut()
            proxy.behave()

    async def _refuse(self, fault: Fault) -> None:
        for proxy in self._ways(fault):
            proxy.refuses = True
            proxy.cut()
        await asyncio.sleep(fault.lasts_s)
        for proxy in self._ways(fault):
            proxy.refuses = False

    async def _lose(self, fault: Fault) -> None:
        """What was asked is done, and who asked is not told."""
        for proxy in self._ways(fault):
            proxy.lost += fault.count

    async def _replace(self, fault: Fault) -> None:
        """As a new version is brought out: one process after the other, each told to end."""
        for kind in SERVERS:
            for name in self._stack.names(kind):
                self._stack.end(name)
                await asyncio.sleep(0.3)

    async def _full_disk(self, fault: Fault) -> None:
        if fault.target not in self._stack.disks:
            self.skipped.add(f"{fault.kind} of {fault.target.rstrip('-0123456789')}")
            return
        await asyncio.to_thread(self._stack.fill_disk, fault.target)
        lasts = asyncio.sleep(fault.lasts_s)
        if fault.kind == "full log":
            await asyncio.gather(lasts, asyncio.to_thread(self._stack.use_up_log))
        else:
            await lasts
        self._stack.empty_disks()

    _kinds: "dict[str, Callable[[Trouble, Fault], Awaitable[None]]]" = {
        "kill": _kill,
        "stop": _stop,
        "hold": _hold,
        "wipe": _wipe,
        "cut": _cut,
        "delay": _delay,
        "deafen": _deafen,
        "leave": _leave,
        "refuse": _refuse,
        "lose": _lose,
        "replace": _replace,
        "full disk": _full_disk,
        "full log": _full_disk,
    }
