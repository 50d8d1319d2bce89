"""What the machine has and how busy it is, from /proc."""

from __future__ import annotations

import os
import shutil
import time
from pathlib import Path

_GB = 1 << 30


def cores() -> int:
    return len(os.sched_getaffinity(0))


def ram_gb() -> float:
    return round(_memory()["MemTotal"] / _GB, 2)


class Gauge:
    """CPU is measured between one reading and the next."""

    def __init__(self, workdir: Path) -> None:
        self._workdir = workdir
        self._busy, self._total = _cpu()

    def read(self) -> dict[str, float]:
        busy, total = _cpu()
        passed = total - self._total
        cpu = 100 * (busy - self._busy) / passed if passed else 0.0
        self._busy, self._total = busy, total
        memory = _memory()
        return {
            "cpu_pct": round(min(max(cpu, 0.0), 100.0), 1),
            "ram_pct": round(100 * (1 - memory["MemAvailable"] / memory["MemTotal"]), 1),
            "disk_free_gb": round(shutil.disk_usage(self._workdir).free / _GB, 2),
            "uptime_s": int(time.clock_gettime(time.CLOCK_BOOTTIME)),
        }


def _cpu() -> tuple[int, int]:
    """Busy and total ticks since the machine's start."""
    with open("/proc/stat", encoding="ascii") as file:
        # user nice system idle iowait irq softirq steal; guest time is part of user's
        ticks = [int(word) for word in file.readline().split()[1:9]]
    return sum(ticks) - ticks[3] - ticks[4], sum(ticks)


def _memory() -> dict[str, int]:
    """Bytes by name."""
    with open("/proc/meminfo", encoding="ascii") as file:
        pairs = (line.split(":") for line in file)
        return {name: int(value.split()[0]) * 1024 for name, value in pairs}
