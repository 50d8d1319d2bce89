"""Fuzzes the report parser: `./dev long fuzz --seconds 60 --seed 1`.

Takes reports of every format and damages them (cuts, flipped bits, entities, nesting, repeated attributes, odd
encodings, a token that is repeated up to a million characters). Parses them in a child process with limited memory. It
is a failure if the parser crashes, takes more than 5 s of processor time per megabyte, or needs more memory than the
limit. The seed determines all inputs; `--case N` runs only input N. Writes results/fuzz.json and exits with 1 if
anything failed.
"""

import argparse
import json
import multiprocessing
import random
import resource
import sys
import time
from collections.abc import Iterator
from multiprocessing.connection import Connection
from pathlib import Path
from typing import Any

from tests.commands.reports import samples

from bench.support.report import write_result
from commands.reports.parser import Case, Limits, Suite, Summary, parse_report

SECONDS_PER_MB = 5.0
MEMORY_LIMIT = 384 * 1024 * 1024
"""Bytes of address space that the child process may add to what it has at its start. Inputs are below 8 MB."""
MAX_CHARACTERS = 2_000_000
"""Largest number of characters of an input. After each damage the input is cut to this length, before it is encoded."""
IMPORT_TIME_S = 20.0
"""Additional seconds that are allowed for the first input, since the child imports the parser then."""
MAX_FAILURES = 100

TOKENS = [
    "<",
    ">",
    "</",
    "/>",
    "&",
    "&#0;",
    "&#x1b;[31m",
    "&#99999999;",
    "&lt;",
    "&lol;",
    "'",
    '"',
    "=",
    "\x00",
    "\x1b[",
    "\r",
    "\n",
    '<a b="',
    "<a b='",
    "<a b=\"<a b='",
    "<a ",
    "<!",
    "<![",
    "<!-",
    "<!--",
    "-->",
    "<?",
    "?>",
    "<![CDATA[",
    "]]>",
    "]]",
    "<!DOCTYPE a [",
    "]>",
    '<!ENTITY a "&a;&a;">',
    "<testcase>",
    '<testcase name="',
    "<testcase name='a' name='b'>",
    "</testcase>",
    "<failure>",
    '<failure message="',
    "</failure>",
    "<testsuite>",
    "</testsuite>",
    "<property/>",
    '<property name="nodeid" value="',
    "<rerunFailure>",
    "<UnitTestResult>",
    "<test-case>",
    '<UnitTestResult testName="x" outcome="Passed"/>',
    "<system-out>",
    "<x:y>",
    "<é>",
    "é",
    "😀",
    "\ufdd0",
    "\ufffe",
    "xmlns:a='b' ",
    "time='1e999' ",
    "tests='-1' ",
    "<collection>",
    "<test>",
    "<error>",
    "[[ATTACHMENT|",
    "\t\u2028",
    "1:1:1.",
    "<foo>",
    'File "a", line 1, in ',
]
ENCODINGS = [
    "utf-8",
    "utf-8",
    "utf-8",
    "utf-16",
    "utf-16-le",
    "utf-16-be",
    "utf-32",
    "utf-8-sig",
    "cp1252",
    "utf-7",
]


def make_input(rng: random.Random) -> bytes:
    """Returns a report of a random format with a few damages."""
    text = rng.choice(list(samples.ALL.values()))
    if rng.random() < 0.1:
        text += rng.choice(list(samples.ALL.values()))
    for _ in range(rng.choice([0, 1, 1, 2, 3, 8])):
        text = _damage_text(text, rng)[:MAX_CHARACTERS]
    data = text.encode(rng.choice(ENCODINGS), "replace")
    for _ in range(rng.choice([0, 0, 1, 2, 5])):
        data = _damage_bytes(data, rng)
    return data


def _damage_text(text: str, rng: random.Random) -> str:
    at = rng.randrange(len(text) + 1)
    to = min(len(text), at + rng.choice([1, 5, 50, 500]))
    kind = rng.randrange(9)
    if kind == 0:
        return text[:at]
    if kind == 1:
        return text[:at] + rng.choice(TOKENS) + text[at:]
    if kind == 2:
        return text[:at] + text[to:]
    if kind == 3:
        return text[:at] + text[at:to] * rng.choice([2, 10, 1000]) + text[to:]
    if kind == 4:
        token = rng.choice(TOKENS) + rng.choice(["", rng.choice(TOKENS)])
        return text[:at] + token * (rng.choice([10, 1000, 1_000_000]) // len(token) + 1) + text[at:]
    if kind == 5:
        return text.replace(
            rng.choice(['"', "'", "<", ">", "/", "=", " ", "testcase", "</failure>"]), rng.choice(TOKENS)
        )
    if kind == 6:
        tag = rng.choice(["testsuite", "failure", "properties", "a", "UnitTestResult"])
        return text[:at] + f"<{tag}>" * rng.choice([3, 300, 30_000]) + text[at:]
    if kind == 7:
        return "<!DOCTYPE t [<!ENTITY a 'aaaa'><!ENTITY b '&a;&a;'>]>" + text[:at] + "&b;" + text[at:]
    return text[at:] + text[:at]


def _damage_bytes(data: bytes, rng: random.Random) -> bytes:
    if not data:
        return bytes(rng.randrange(256) for _ in range(20))
    at = rng.randrange(len(data))
    kind = rng.randrange(4)
    if kind == 0:
        return data[:at]
    if kind == 1:
        return data[:at] + bytes([data[at] ^ (1 << rng.randrange(8))]) + data[at + 1 :]
    if kind == 2:
        return data[:at] + rng.randbytes(rng.choice([1, 3, 1000])) + data[at:]
    return data[:at] + data[at + rng.choice([1, 3]) :]


def split(data: bytes, rng: random.Random) -> Iterator[bytes]:
    size = rng.choice([13, 1000, 65_536, 10_000_000])
    size = max(size, len(data) // 20_000)
    return (data[at : at + size] for at in range(0, len(data), size))


def check(data: bytes, rng: random.Random) -> None:
    """Parses `data`. Raises AssertionError if an item breaks a limit or the counts of a suite do not add up."""
    limits = Limits()
    items: list[Case | Suite | Summary] = []
    for item in parse_report(split(data, rng), limits=limits):
        if isinstance(item, Suite):
            assert item.counts.tests == item.counts.passed + item.counts.failed + item.counts.skipped
        if isinstance(item, Case):
            assert item.node_id, "a case without an id"
            assert len(item.node_id) <= limits.name, "a long node id"
            assert len(item.message) <= limits.message, "a long message"
            assert len(item.trace) <= limits.trace + 100, "a long trace"
            assert len(item.system_out) <= limits.output + 100, "a long output"
            assert (item.status == "failed") == bool(item.signature), "a signature without a failure, or none"
        items = [item]
    assert len(items) == 1, "no item came"
    (summary,) = items
    assert isinstance(summary, Summary), "the last item is no summary"
    assert len(summary.warnings) < 100


def run_child(connection: Connection, seed: int) -> None:
    """Runs in the child process. Receives numbers of cases, and sends (number, size in bytes, seconds of processor
    time, fault, peak memory in KiB) for each.
    """
    size = int(Path("/proc/self/statm").read_text(encoding="ascii").split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (size + MEMORY_LIMIT, size + MEMORY_LIMIT))
    while (number := connection.recv()) is not None:
        rng = random.Random(f"{seed}-{number}")
        data = make_input(rng)
        start = time.process_time()  # not what other processes of the machine take
        fault = ""
        try:
            check(data, rng)
        except BaseException as error:  # any exception is a failure to report
            fault = f"{type(error).__name__}: {error}"[:500]
        peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
        connection.send((number, len(data), time.process_time() - start, fault, peak))


class Worker:
    def __init__(self, seed: int) -> None:
        context = multiprocessing.get_context("spawn")
        self._connection, child_end = context.Pipe()
        self._process = context.Process(target=run_child, args=(child_end, seed), daemon=True)
        self._process.start()
        child_end.close()

    def run(self, number: int) -> tuple[int, float, str, int]:
        """Returns (size in bytes, seconds, fault, peak memory in KiB) of one case. If the child hangs or dies, this is
        a fault.
        """
        try:
            self._connection.send(number)
            # The largest inputs have about 8 MB.
            if not self._connection.poll(8 * SECONDS_PER_MB + IMPORT_TIME_S):
                self._process.kill()
                return 0, 0.0, "hang", 0
            _, size, seconds, fault, peak = self._connection.recv()
        except (EOFError, OSError):
            return 0, 0.0, f"the process died ({self._process.exitcode})", 0
        if not fault and seconds > SECONDS_PER_MB * max(1.0, size / 1e6):
            fault = f"slow: {seconds:.1f} s for {size:,} bytes"
        return size, seconds, fault, peak

    def stop(self) -> None:
        self._process.kill()
        self._process.join()


def fuzz(seconds: float, seed: int, only: int | None = None) -> dict[str, Any]:
    failures: list[dict[str, Any]] = []
    number = cases = total = peak = 0
    slowest = 0.0
    worker = Worker(seed)
    until = time.monotonic() + seconds
    while time.monotonic() < until:
        number = only if only is not None else number + 1
        size, seconds_taken, fault, memory = worker.run(number)
        cases, total = cases + 1, total + size
        slowest, peak = max(slowest, seconds_taken), max(peak, memory)
        if fault:
            failures.append({"case": number, "fault": fault, "bytes": size})
            worker.stop()
            worker = Worker(seed)
        if only is not None or len(failures) >= MAX_FAILURES:
            break
    worker.stop()
    return {
        "seed": seed,
        "seconds": seconds,
        "cases": cases,
        "bytes": total,
        "slowest_seconds": round(slowest, 3),
        "peak_rss_mb": round(peak / 1024),
        "failures": failures,
    }


def main() -> int:
    parser = argparse.ArgumentParser(description="Fuzz the report parser.")
    parser.add_argument("--seconds", type=float, default=60)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--case", type=int, default=None, help="run only this case")
    parser.add_argument("--results", type=Path, default=Path("results"))
    options = parser.parse_args()
    result = fuzz(options.seconds, options.seed, options.case)
    write_result(options.results, "fuzz", result)
    print(json.dumps(result))
    return 1 if result["failures"] else 0


if __name__ == "__main__":
    sys.exit(main())
