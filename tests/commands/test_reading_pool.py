"""Reports read in other processes: as they are read here, and within limits."""

import asyncio
import contextlib
import gzip
import os
import random
from collections.abc import AsyncIterator
from pathlib import Path

import psutil
import pytest

from commands.reports import reading
from commands.reports.reading import Match, read_chunks, read_report
from commands.reports.reading_pool import ReadingPool
from commands.reports.report_queue import ReportSender
from domain.known_issues import MatchRule
from tests.commands.reports.samples import TESTHIDE

SMALL = b'<testsuite name="s"><testcase name="test_a"/></testsuite>'


@contextlib.asynccontextmanager
async def opened(pool: ReadingPool) -> AsyncIterator[ReadingPool]:
    try:
        yield pool
    finally:
        pool.close()
        assert processes() == []


def ann() -> ReportSender:
    return ReportSender("user:1")


async def no_rules() -> list[MatchRule]:
    return []


def processes() -> list[psutil.Process]:
    return [child for child in psutil.Process().children() if "commands.reports.reading_process" in child.cmdline()]


def fifo(folder: Path, name: str) -> Path:
    """A report that is read when somebody writes it, and not before."""
    os.mkfifo(folder / name)
    return folder / name


async def is_opened(path: Path) -> bool:
    """Whether a process has opened the fifo."""
    try:
        os.close(os.open(path, os.O_WRONLY | os.O_NONBLOCK))
    except OSError:
        return False
    return True


async def test_a_report_is_read_as_in_the_same_process(tmp_path: Path) -> None:
    many = "".join(f'<testcase name="t{n}"><failure message="m{n}">x</failure></testcase>' for n in range(2_500))
    contents = [TESTHIDE.encode(), gzip.compress(f'<testsuite name="s">{many}</testsuite>'.encode()), b"", b"<html/>"]
    async with opened(ReadingPool()) as pool:
        for number, content in enumerate(contents):
            path = tmp_path / f"{number}.xml"
            path.write_bytes(content)
            assert await pool.read(1, ann(), path, no_rules) == read_report(path)
        assert len(processes()) == 1, "it is kept"


@pytest.mark.parametrize(
    ("limits", "begin", "repeated", "times", "reason"),
    [
        ({"max_cpu_s": 0.1}, b"<testsuite><testcase name='a'>", b"<x/>", 10**6, "more than 0.1 s of CPU time"),
        (
            {"max_memory": 64 * 2**20},
            b"<testsuite>",
            b"<testcase name='a'><failure message='%s'/></testcase>" % (b"x" * 40_000),
            2_000,
            "more than 64 MiB of memory",
        ),
    ],
)
async def test_a_report_that_costs_too_much_is_unreadable(
    tmp_path: Path, limits: dict[str, int], begin: bytes, repeated: bytes, times: int, reason: str
) -> None:
    path, small = tmp_path / "r.xml.gz", tmp_path / "small.xml"
    path.write_bytes(gzip.compress(begin + repeated * times, 1))
    small.write_bytes(SMALL)
    async with opened(ReadingPool(1, **limits)) as pool:
        read = await pool.read(1, ann(), path, no_rules)
        assert (read.is_unreadable, read.rows) == (True, 0)
        assert reason in read.warnings[0]
        assert (await pool.read(1, ann(), small, no_rules)).rows == 1, "the next one has a process again"


async def test_failures_are_matched_within_a_limit_of_their_own(tmp_path: Path) -> None:
    failure = "<testcase name='a'><failure message='m'>%d %s</failure></testcase>"
    mixed = "".join(random.Random(1).choices("ab", k=20_000))
    failures = [failure % (number, mixed) for number in range(100)]
    many, few = tmp_path / "many.xml", tmp_path / "few.xml"
    many.write_text(f"<testsuite>{''.join(failures)}</testsuite>")
    few.write_text(f"<testsuite>{''.join(failures[:5])}</testsuite>")

    async def one() -> list[MatchRule]:
        return [MatchRule(7, "flaky", "pattern", "^m\n3 ")]

    async def heavy() -> list[MatchRule]:
        return [MatchRule(number, "flaky", "pattern", f"a.{{900}}c{number}") for number in range(40)]

    async with opened(ReadingPool(1, max_match_cpu_s=0.1)) as pool:
        unmatched = await pool.read(1, ann(), many, heavy)
        assert (unmatched.rows, unmatched.matches, unmatched.is_unreadable) == (100, [], False)
        assert unmatched.warnings == [
            "its failures were not matched with the known issues: it takes more than 0.1 s of CPU time"
        ]
        assert (await pool.read(1, ann(), few, one)).matches == [Match(3, 7, "flaky", end=len("m\n3 "))], (
            "the next one has a process again"
        )


def test_a_report_with_too_many_results_is_unreadable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MAX_RESULTS", 2)
    cases = [b"<testsuite name='s'>", *[b"<testcase name='a'/>"] * 3, b"</testsuite>"]
    assert not read_chunks([cases[0], *cases[2:]]).is_unreadable
    read = read_chunks(cases)
    assert (read.is_unreadable, read.rows) == (True, 0)
    assert read.warnings == ["it has more than 2 results: none of its results was read"]


def test_a_report_with_too_long_names_is_unreadable(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(reading, "MAX_NAME_BYTES", 12)
    names = [b"<testsuite name='s'>", b"<testcase name='abcdefgh'/>", b"<testcase name='ijk'/>", b"</testsuite>"]
    assert not read_chunks([names[0], names[1], names[1], names[3]]).is_unreadable
    read = read_chunks(names)
    assert (read.is_unreadable, read.rows) == (True, 0)
    assert "the names of its tests have more than" in read.warnings[0]


async def test_a_project_waits_for_itself_alone(tmp_path: Path) -> None:
    slow, next_one, small = fifo(tmp_path, "slow"), fifo(tmp_path, "next"), tmp_path / "small.xml"
    small.write_bytes(SMALL)
    async with opened(ReadingPool(3)) as pool, asyncio.timeout(20):
        reads = [asyncio.create_task(pool.read(1, ann(), path, no_rules)) for path in (slow, next_one)]
        assert (await pool.read(2, ann(), small, no_rules)).rows == 1
        assert (await pool.read(3, ann(), small, no_rules)).rows == 1
        assert not await is_opened(next_one), "one report of a project at a time"
        await asyncio.to_thread(slow.write_bytes, SMALL)
        await asyncio.to_thread(next_one.write_bytes, SMALL)
        assert [(await read).rows for read in reads] == [1, 1]


async def test_a_request_that_ends_ends_its_process(tmp_path: Path) -> None:
    async with opened(ReadingPool(1)) as pool, asyncio.timeout(20):
        read = asyncio.create_task(pool.read(1, ann(), fifo(tmp_path, "slow"), no_rules))
        while not processes():
            await asyncio.sleep(0.01)  # between two looks
        read.cancel()
        with pytest.raises(asyncio.CancelledError):
            await read
        assert processes() == []


async def test_a_process_that_was_killed_is_replaced(tmp_path: Path) -> None:
    small = tmp_path / "small.xml"
    small.write_bytes(SMALL)
    async with opened(ReadingPool(1)) as pool:
        await pool.read(1, ann(), small, no_rules)
        processes()[0].kill()
        assert (await pool.read(1, ann(), small, no_rules)).rows == 1
