"""Draws faults from a seed, injects them into a stack, and undoes them before anything is checked."""

import asyncio
import random
from collections.abc import Awaitable, Callable, Sequence
from dataclasses import dataclass

import redis.asyncio

from tests.faults.proxy import Proxy
from tests.faults.stack import DATABASE, SERVERS, Stack

KILL_TARGETS = ("agent", "agent", "serve", "work", "work", "project", "dispatch", "postgres", "valkey", "docker")
STOP_TARGETS = (*SERVERS, "agent", "postgres", "valkey", "docker", "vcenter")
HOLD_TARGETS = ("valkey", "postgres", "serve", "dispatch", "docker")
MACHINE_HOSTS = ("docker", "vcenter")
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
"""Kinds of faults, with their weights in the draw."""


@dataclass(frozen=True)
class Fault:
    after_s: float
    kind: str
    target: str = ""
    duration_s: float = 0.0
    count: int = 0

    def __str__(self) -> str:
        duration = f" for {self.duration_s:.2f} s" if self.duration_s else ""
        times = f" {self.count} times" if self.count else ""
        return f"+{self.after_s:.2f} s {self.kind} {self.target}{times}{duration}"


def draw_faults(rng: random.Random, stack: Stack, within_s: float) -> list[Fault]:
    """Returns one to three faults, in the order in which they begin."""
    return sorted(
        (_draw_fault(rng, stack, rng.uniform(0, within_s)) for _ in range(rng.randrange(1, 4))),
        key=lambda fault: fault.after_s,
    )


def _draw_fault(rng: random.Random, stack: Stack, after_s: float) -> Fault:
    def draw_name(kind: str) -> str:
        return rng.choice(stack.list_names(kind))

    def draw_kind(kinds: Sequence[str]) -> str:
        return draw_name(rng.choice([kind for kind in kinds if stack.list_names(kind)]))

    def draw_proxy() -> str:
        """Draws the proxies of clients, of all processes to one engine, of one process to the database, or of those
        that reach a host of machines.
        """
        of_one = f"{DATABASE} of {draw_name(rng.choice(SERVERS))}"
        hosts = [name for name in MACHINE_HOSTS if name in stack.proxies]
        return rng.choice(("api", "api", "api", of_one, of_one, DATABASE, "redis", *hosts, *hosts))

    kind = rng.choices(list(KINDS), list(KINDS.values()))[0]
    match kind:
        case "kill":
            return Fault(after_s, kind, draw_kind(KILL_TARGETS))
        case "stop":
            return Fault(after_s, kind, draw_kind(STOP_TARGETS), rng.uniform(0.2, 3))
        case "hold":
            return Fault(after_s, kind, draw_kind(HOLD_TARGETS), rng.uniform(0.5, 4))
        case "cut":
            return Fault(after_s, kind, draw_proxy())
        case "delay" | "deafen" | "leave" | "refuse":
            return Fault(after_s, kind, draw_proxy(), rng.uniform(0.5, 4))
        case "lose":
            return Fault(after_s, kind, draw_proxy(), count=rng.randrange(1, 8))
        case "full disk":
            return Fault(after_s, kind, rng.choice((DATABASE, draw_name("agent"))), rng.uniform(0.3, 2))
        case "full log":
            return Fault(after_s, kind, DATABASE, rng.uniform(0.5, 2))
        case _:
            return Fault(after_s, kind)


class FaultInjector:
    def __init__(self, stack: Stack) -> None:
        self._stack = stack
        self.skipped: set[str] = set()
        """Faults that cannot be injected on this machine."""

    async def inject(self, fault: Fault) -> None:
        """Waits until the fault is due, injects it, and returns when it has lasted its time."""
        await asyncio.sleep(fault.after_s)
        await self._kinds[fault.kind](self, fault)

    async def undo(self) -> None:
        """Removes all faults and waits until every process runs."""
        for proxy in self._stack.proxies.values():
            proxy.reset()
        self._stack.empty_disks()
        self._stack.release_held()
        await self._stack.wait_until_running()

    async def _kill(self, fault: Fault) -> None:
        self._stack.kill(fault.target)

    async def _stop(self, fault: Fault) -> None:
        unit = self._stack.units[fault.target]
        stopped = list(unit.pids)
        self._stack.pause(stopped)
        await asyncio.sleep(fault.duration_s)
        self._stack.resume(stopped)

    async def _hold(self, fault: Fault) -> None:
        self._stack.kill(fault.target, hold=True)
        await asyncio.sleep(fault.duration_s)
        self._stack.units[fault.target].is_held = False

    async def _wipe(self, fault: Fault) -> None:
        client = redis.asyncio.Redis.from_url(self._stack.settings.redis_url)
        try:
            await client.flushall()
        except (redis.RedisError, OSError):
            return  # it does not run, so it is empty
        finally:
            await client.aclose()

    def _proxies(self, fault: Fault) -> list[Proxy]:
        return [proxy for name, proxy in self._stack.proxies.items() if name.startswith(fault.target)]

    async def _cut(self, fault: Fault) -> None:
        for proxy in self._proxies(fault):
            proxy.cut()

    async def _delay(self, fault: Fault) -> None:
        for proxy in self._proxies(fault):
            proxy.delay_s = 0.15
        await asyncio.sleep(fault.duration_s)
        for proxy in self._proxies(fault):
            proxy.delay_s = 0.0

    async def _deafen(self, fault: Fault) -> None:
        """Stalls connections, then cuts them."""
        for proxy in self._proxies(fault):
            proxy.stall()
        await self._break_after(fault)

    async def _leave(self, fault: Fault) -> None:
        """Stalls connections that the server considers broken, then cuts them."""
        for proxy in self._proxies(fault):
            proxy.half_close()
        await self._break_after(fault)

    async def _break_after(self, fault: Fault) -> None:
        await asyncio.sleep(fault.duration_s)
        for proxy in self._proxies(fault):
            proxy.cut()
            proxy.reset()

    async def _refuse(self, fault: Fault) -> None:
        for proxy in self._proxies(fault):
            proxy.refuses = True
            proxy.cut()
        await asyncio.sleep(fault.duration_s)
        for proxy in self._proxies(fault):
            proxy.refuses = False

    async def _lose(self, fault: Fault) -> None:
        """Lets the server execute requests and loses its answers."""
        for proxy in self._proxies(fault):
            proxy.answers_to_lose += fault.count

    async def _replace(self, fault: Fault) -> None:
        """Terminates one process after the other, as the rollout of a new version does."""
        for kind in SERVERS:
            for name in self._stack.list_names(kind):
                self._stack.terminate(name)
                await asyncio.sleep(0.3)

    async def _full_disk(self, fault: Fault) -> None:
        if fault.target not in self._stack.disks:
            self.skipped.add(f"{fault.kind} of {fault.target.rstrip('-0123456789')}")
            return
        await asyncio.to_thread(self._stack.fill_disk, fault.target)
        wait = asyncio.sleep(fault.duration_s)
        if fault.kind == "full log":
            await asyncio.gather(wait, asyncio.to_thread(self._stack.fill_wal))
        else:
            await wait
        self._stack.empty_disks()

    _kinds: "dict[str, Callable[[FaultInjector, Fault], Awaitable[None]]]" = {
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
