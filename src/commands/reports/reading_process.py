"""A process that reads reports and does nothing else: `ReadingPool` starts it, and bounds what one report may cost.

A request is the path of a report, followed by the match rules of the report's project. The answer is a `ReportRead` in
several messages, so that the server never decodes a large message at once. First comes the report without its texts,
then the texts of each block in a message, and last the report's matches and outages. If reading or matching a report
takes too much CPU time, the kernel ends the process by a signal.
"""

import os
import resource
import signal
import sys
from array import array
from collections.abc import Iterator, Sequence
from dataclasses import fields
from pathlib import Path
from typing import IO, Any

import msgspec

from commands.reports.matching import MatchRules
from commands.reports.outages import find_outages
from commands.reports.reading import Match, ReportRead, read_report
from domain.known_issues import MatchRule
from domain.results import FAILED, ResultText

LARGE = 256 * 1024 * 1024
"""Memory use in bytes above which the process ends after its answer, since Python would not return the memory to the
system.
"""
OUT_OF_MEMORY = 3
"""Exit code of a process that reached its memory limit."""

_texts = msgspec.msgpack.Decoder(list[ResultText])
_rules = msgspec.msgpack.Decoder(list[MatchRule])
_matches = msgspec.msgpack.Decoder(tuple[list[Match], bytes])


def main(max_cpu_s: float, max_match_cpu_s: float, max_memory: int) -> None:
    """Reads the reports whose paths come on standard input, until standard input ends."""
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # a Ctrl-C is for the server, which then closes standard input
    resource.setrlimit(resource.RLIMIT_AS, (max_memory, max_memory))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    requests, answers = sys.stdin.buffer, sys.stdout.buffer
    while (path := receive(requests)) and (rules := receive(requests)):
        signal.setitimer(signal.ITIMER_PROF, max_cpu_s)
        try:
            report = read_report(Path(os.fsdecode(path)))
            for message in pack(report):
                send(answers, message)
            answers.flush()
            signal.setitimer(signal.ITIMER_PROF, max_match_cpu_s)
            report.matches = _find_matches(report, rules)
            send(answers, msgspec.msgpack.encode((report.matches, find_outages(report))))
        except MemoryError:
            os._exit(OUT_OF_MEMORY)
        answers.flush()
        signal.setitimer(signal.ITIMER_PROF, 0)
        resident_pages = int(Path("/proc/self/statm").read_text().split()[1])
        if resident_pages * resource.getpagesize() > LARGE:
            return


def send(stream: IO[bytes], message: bytes) -> None:
    stream.write(len(message).to_bytes(4, "big"))
    stream.write(message)


def receive(stream: IO[bytes]) -> bytes:
    """Returns the next message. Returns empty bytes if the stream ends before the message is complete."""
    size = int.from_bytes(stream.read(4), "big")
    message = stream.read(size)
    return message if len(message) == size else b""


def pack(report: ReportRead) -> Iterator[bytes]:
    """Yields the messages that encode a report, except the last message, which has its matches and outages."""
    apart = "texts", "matches", "outages"
    columns = {field.name: getattr(report, field.name) for field in fields(report) if field.name not in apart}
    yield msgspec.msgpack.encode(columns, enc_hook=_pack_array)
    yield from map(msgspec.msgpack.encode, report.texts_by_block())


def unpack(stream: IO[bytes]) -> ReportRead:
    """Reads the messages of a report from the stream, and returns the report without its matches and outages. Raises
    EOFError if the stream ends before the last of these messages.
    """
    if not (message := receive(stream)):
        raise EOFError
    columns: dict[str, Any] = msgspec.msgpack.decode(message, ext_hook=_unpack_array)
    for name, column in columns.items():
        if isinstance(column, bytes):
            columns[name] = bytearray(column)
    report = ReportRead(**columns)
    for _ in report.blocks():
        if not (message := receive(stream)):
            raise EOFError
        report.texts += _texts.decode(message)
    return report


def pack_rules(rules: Sequence[MatchRule]) -> bytes:
    return msgspec.msgpack.encode(rules)


def unpack_matches(stream: IO[bytes]) -> tuple[list[Match], bytes]:
    """Reads the last message of a report from the stream, and returns the matches and outages in it. Raises EOFError if
    the stream ends before the message is complete.
    """
    if not (message := receive(stream)):
        raise EOFError
    return _matches.decode(message)


def _find_matches(report: ReportRead, rules: bytes) -> list[Match]:
    return MatchRules(_rules.decode(rules)).find_matches(report) if FAILED in report.statuses else []


def _pack_array(column: Any) -> msgspec.msgpack.Ext:
    assert isinstance(column, array)
    return msgspec.msgpack.Ext(ord(column.typecode), column.tobytes())


def _unpack_array(typecode: int, items: memoryview) -> "array[int]":
    return array(chr(typecode), bytes(items))


if __name__ == "__main__":
    main(float(sys.argv[1]), float(sys.argv[2]), int(sys.argv[3]))
