"""Reads from /proc what the machine has and how busy it is."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

_GB = 1 << 30


def count_cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0))


def read_ram_gb() -> float:
    return round(_read_memory()["MemTotal"] / _GB, 2)


class MachineGauge:
    """Reads the measurements that a heartbeat reports. `cpu_pct` is the average CPU load, in percent, since the
    previous reading.
    """

    def __init__(self, workdir: Path) -> None:
        self._workdir = workdir
        self._busy, self._total = _read_cpu_ticks()

    def read(self) -> dict[str, float]:
        busy, total = _read_cpu_ticks()
        passed = total - self._total
        cpu = 100 * (busy - self._busy) / passed if passed else 0.0
        self._busy, self._total = busy, total
        memory = _read_memory()
        return {
            "cpu_pct": round(min(max(cpu, 0.0), 100.0), 1),
            "ram_pct": round(100 * (1 - memory["MemAvailable"] / memory["MemTotal"]), 1),
            "disk_free_gb": round(shutil.disk_usage(self._workdir).free / _GB, 2),
            "uptime_s": int(time.clock_gettime(time.CLOCK_BOOTTIME)),
        }


def _read_cpu_ticks() -> tuple[int, int]:
    """Return the clock ticks of all cores since the machine started, as two numbers: the busy ticks, and all ticks."""
    with open("/proc/stat", encoding="ascii") as file:
        # user nice system idle iowait irq softirq steal; guest time is part of user's
        ticks = [int(word) for word in file.readline().split()[1:9]]
    return sum(ticks) - ticks[3] - ticks[4], sum(ticks)


def _read_memory() -> dict[str, int]:
    """Return the entries of /proc/meminfo in bytes."""
    with open("/proc/meminfo", encoding="ascii") as file:
        pairs = (line.split(":") for line in file)
        return {name: int(value.split()[0]) * 1024 for name, value in pairs}
