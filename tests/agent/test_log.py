"""Lines arrive in order, once each, while the build runs; whatever the network does."""

from __future__ import annotations

import json
import resource
import statistics
import threading
from pathlib import Path
from typing import Any

import pytest
from tests.agent.fake_server import FakeServer
from tests.agent.harness import StartAgent

from agent.build.lines import LONGEST_LINE, LineReader
from agent.build.log import LAST_LINES, LINES_PER_REQUEST, Log
from agent.build.masking import Masker

MANY = 5000


@pytest.mark.usefixtures("agent")
def test_lines_arrive_in_order_with_their_time(server: FakeServer) -> None:
    build = server.queue("echo one; echo two >&2; printf 'no end'")

    verdict = server.wait_finished(build)

    assert verdict == {"exit_code": 0, "reason": None, "detail": None, "log_lines": len(build.lines)}
    assert build.own == ["one", "two", "no end"]
    assert build.times == sorted(build.times)
    assert build.lines[0] == "==> Build 1 of tests, attempt 1"


@pytest.mark.usefixtures("agent")
def test_a_line_arrives_while_the_command_runs(server: FakeServer, place: Path) -> None:
    gate = place / "gate"
    build = server.queue(f"echo before; while [ ! -e {gate} ]; do sleep 0.02; done; echo after")

    server.wait_line(build, "before")
    gate.touch()

    server.wait_line(build, "after")


@pytest.mark.usefixtures("agent")
def test_lines_are_not_kept_back(server: FakeServer) -> None:
    build = server.queue("for i in 1 2 3 4 5 6 7 8 9; do date +%s.%N; sleep 0.03; done")
    server.wait_finished(build)

    printed = {line: float(line) for line in build.own}
    late = [at - printed[line] for line, at in zip(build.lines, build.arrived, strict=True) if line in printed]
    assert statistics.median(late) < 0.15


@pytest.mark.usefixtures("agent")
def test_a_long_log_is_sent_in_bounded_requests(server: FakeServer) -> None:
    build = server.queue(f"seq {MANY}")
    server.wait_finished(build)

    assert build.own == [str(number) for number in range(1, MANY + 1)]
    assert max(lines for _, lines in build.requests) <= LINES_PER_REQUEST


def _every_third(answer: Any) -> Any:
    calls = iter(range(10**6))

    def fault(call: str, *_: Any) -> Any:
        return answer if call == "log" and next(calls) % 3 == 1 else None

    return fault


@pytest.mark.parametrize("fault", [(503, None), (429, None), "drop"], ids=str)
@pytest.mark.usefixtures("agent")
def test_nothing_is_lost_when_the_server_fails(server: FakeServer, fault: Any) -> None:
    server.fault = _every_third(fault)
    build = server.queue(f"seq {MANY}; sleep 0.1; echo last")
    server.wait_finished(build)

    assert build.own == [*map(str, range(1, MANY + 1)), "last"]


@pytest.mark.usefixtures("agent")
def test_it_sends_again_from_where_the_server_is(server: FakeServer) -> None:
    build = server.queue(f"seq {MANY}; sleep 0.1; echo last")
    forgotten = iter([1])

    def forget(call: str, *_: Any) -> None:
        if call == "log" and len(build.lines) > 700 and next(forgotten, None):
            del build.lines[300:]

    server.fault = forget
    server.wait_finished(build)

    assert build.own == [*map(str, range(1, MANY + 1)), "last"]
    assert any(offset == 300 for offset, _ in build.requests)


def test_what_is_printed_while_the_server_is_away_waits_in_a_file(server: FakeServer, start: StartAgent) -> None:
    agent = start()
    away = threading.Event()
    build = server.queue("echo begin; while [ ! -e go ]; do sleep 0.02; done; seq 20000; touch done")
    server.wait_line(build, "begin")
    away.set()
    server.fault = lambda call, *_: (503, None) if call == "log" and away.is_set() else None
    workspace = agent.workdir / "builds" / "1-1" / "workspace"
    (workspace / "go").touch()
    server.wait(lambda: (workspace / "done").exists() or (server.changed.wait(0.02) and False))
    away.clear()
    server.wait_finished(build)

    assert build.own == ["begin", *map(str, range(1, 20001))]


def _read(reader: LineReader, *chunks: bytes) -> list[str]:
    return [line for chunk in chunks for line in reader.feed(chunk)] + reader.flush()


def test_lines_are_whole_whatever_the_chunks() -> None:
    assert _read(LineReader(Masker([])), b"a", b"b\nc\xc3", b"\xa9\n", b"\xff\r\n\nend") == [
        "ab",
        "cé",
        "\ufffd",
        "",
        "end",
    ]


def test_of_a_progress_bar_the_last_state_stays() -> None:
    assert _read(LineReader(Masker([])), b"10%\r", b"20%\r30%", b"\rdone\n") == ["done"]


def test_an_endless_line_is_cut() -> None:
    reader = LineReader(Masker([]))
    lines = _read(reader, *["é".encode() * 5000] * 20)

    assert "".join(lines) == "é" * 100_000
    assert all(len(line.encode()) <= LONGEST_LINE for line in lines)


def test_a_secret_across_the_cut_of_a_long_line_is_masked() -> None:
    secret = "S3cret-" * 5
    for before in range(LONGEST_LINE - len(secret) - 1, LONGEST_LINE + 2):
        data = b"x" * before + secret.encode() + b"y" * 50
        lines = _read(LineReader(Masker([secret])), data[:60000], data[60000:])
        assert "".join(lines) == "x" * before + "***" + "y" * 50


def test_it_sends_exactly_what_the_server_asks_for(tmp_path: Path) -> None:
    sent: list[tuple[int, list[int]]] = []
    answers = iter([777, 300, 299, 2500, 1001, 2001, 3000])

    def send(body: bytes) -> int:
        request = json.loads(body)
        sent.append((request["offset"], [int(text) for _, text in request["lines"]]))
        return next(answers)

    log = Log(str(tmp_path), Masker([]), send, lambda _: False, lambda: None)
    log.add([str(number) for number in range(3000)])
    count = log.finish()
    log.close()

    assert count == 3000
    assert [offset for offset, _ in sent] == [0, 777, 300, 299, 2500, 1001, 2001]
    for offset, numbers in sent:
        assert numbers == list(range(offset, min(offset + LINES_PER_REQUEST, 3000)))


class Received:
    """The other end of a `Log`: takes everything."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def send(self, body: bytes) -> int:
        request = json.loads(body)
        assert request["offset"] == len(self.lines)
        self.lines += [text for _, text in request["lines"]]
        return len(self.lines)


def a_log(folder: Path, received: Received) -> Log:
    return Log(str(folder), Masker([]), received.send, lambda seconds: False, lambda: None)


def test_a_log_that_is_too_long_keeps_its_beginning_and_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.build.log.LONGEST", 10_000)
    received = Received()
    log = a_log(tmp_path, received)
    for number in range(10_000):
        log.add([f"line {number}"])
    count = log.finish()
    log.close()

    assert count == len(received.lines)
    (place,) = [at for at, line in enumerate(received.lines) if line.startswith("==>")]
    head, tail = received.lines[:place], received.lines[place + 1 :]
    assert head == [f"line {number}" for number in range(len(head))]
    assert tail == [f"line {number}" for number in range(10_000 - LAST_LINES, 10_000)]
    assert received.lines[place] == f"==> {10_000 - len(head) - len(tail)} lines were left out: the log was too long"


def test_lines_for_which_there_is_no_room_leave_a_visible_gap(tmp_path: Path) -> None:
    received = Received()
    log = a_log(tmp_path, received)
    log.add(["before"])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))  # a full disk, as far as a write can tell
    try:
        log.add(["lost", "lost too"])
        log.add(["and this"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    log.add(["after"])
    log.finish()
    log.close()

    assert received.lines == ["before", "==> 3 lines are missing: the agent's disk was full", "after"]
