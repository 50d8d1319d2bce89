"""Lines arrive in order, once each, while the build runs, whatever the network does."""

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

from agent.build.log import LAST_LINES, MAX_REQUEST_LINES, Log
from agent.build.masking import Masker

MANY = 5000


@pytest.mark.usefixtures("agent")
def test_lines_arrive_in_order_with_their_time(server: FakeServer) -> None:
    build = server.queue("echo one; echo two >&2; printf 'no end'")

    verdict = server.wait_finished(build)

    assert verdict == {"exit_code": 0, "reason": None, "detail": None, "log_lines": len(build.lines)}
    assert build.printed == ["one", "two", "no end"]
    assert build.times == sorted(build.times)
    assert build.lines[0] == "==> Build 1 of tests, attempt 1"


@pytest.mark.usefixtures("agent")
def test_a_line_arrives_while_the_command_runs(server: FakeServer, folder: Path) -> None:
    gate = folder / "gate"
    build = server.queue(f"echo before; while [ ! -e {gate} ]; do sleep 0.02; done; echo after")

    server.wait_line(build, "before")
    gate.touch()

    server.wait_line(build, "after")


@pytest.mark.usefixtures("agent")
def test_lines_are_sent_without_delay(server: FakeServer) -> None:
    build = server.queue("for i in 1 2 3 4 5 6 7 8 9; do date +%s.%N; sleep 0.03; done")
    server.wait_finished(build)

    printed = {line: float(line) for line in build.printed}
    late = [at - printed[line] for line, at in zip(build.lines, build.arrived, strict=True) if line in printed]
    assert statistics.median(late) < 0.15


@pytest.mark.usefixtures("agent")
def test_a_long_log_is_sent_in_bounded_requests(server: FakeServer) -> None:
    build = server.queue(f"seq {MANY}")
    server.wait_finished(build)

    assert build.printed == [str(number) for number in range(1, MANY + 1)]
    assert max(lines for _, lines in build.requests) <= MAX_REQUEST_LINES


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

    assert build.printed == [*map(str, range(1, MANY + 1)), "last"]


@pytest.mark.usefixtures("agent")
def test_it_sends_again_from_where_the_server_is(server: FakeServer) -> None:
    build = server.queue(f"seq {MANY}; sleep 0.1; echo last")
    forgotten = iter([1])

    def forget(call: str, *_: Any) -> None:
        if call == "log" and len(build.lines) > 700 and next(forgotten, None):
            del build.lines[300:]

    server.fault = forget
    server.wait_finished(build)

    assert build.printed == [*map(str, range(1, MANY + 1)), "last"]
    assert any(offset == 300 for offset, _ in build.requests)


def test_lines_wait_in_a_file_while_the_server_is_unreachable(server: FakeServer, start: StartAgent) -> None:
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

    assert build.printed == ["begin", *map(str, range(1, 20001))]


def test_it_sends_exactly_what_the_server_asks_for(tmp_path: Path) -> None:
    sent: list[tuple[int, list[int]]] = []
    answers = iter([777, 300, 299, 2500, 1001, 2001, 3000])

    def send(body: bytes) -> int:
        request = json.loads(body)
        sent.append((request["offset"], [int(text) for _, text in request["lines"]]))
        return next(answers)

    log = Log(str(tmp_path), Masker([]), send, lambda _: False, lambda _: None)
    log.add([str(number) for number in range(3000)])
    count = log.finish()
    log.close()

    assert count == 3000
    assert [offset for offset, _ in sent] == [0, 777, 300, 299, 2500, 1001, 2001]
    for offset, numbers in sent:
        assert numbers == list(range(offset, min(offset + MAX_REQUEST_LINES, 3000)))


class LogReceiver:
    """Stands for the server of a `Log`: acknowledges every line."""

    def __init__(self) -> None:
        self.lines: list[str] = []

    def send(self, body: bytes) -> int:
        request = json.loads(body)
        assert request["offset"] == len(self.lines)
        self.lines += [text for _, text in request["lines"]]
        return len(self.lines)


def make_log(folder: Path, receiver: LogReceiver) -> Log:
    return Log(str(folder), Masker([]), receiver.send, lambda seconds: False, lambda _: None)


def test_a_log_that_is_too_long_keeps_its_beginning_and_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("agent.build.log.MAX_FILE_BYTES", 10_000)
    receiver = LogReceiver()
    log = make_log(tmp_path, receiver)
    for number in range(10_000):
        log.add([f"line {number}"])
    count = log.finish()
    log.close()

    assert count == len(receiver.lines)
    (gap,) = [at for at, line in enumerate(receiver.lines) if line.startswith("==>")]
    head, tail = receiver.lines[:gap], receiver.lines[gap + 1 :]
    assert head == [f"line {number}" for number in range(len(head))]
    assert tail == [f"line {number}" for number in range(10_000 - LAST_LINES, 10_000)]
    assert receiver.lines[gap] == f"==> {10_000 - len(head) - len(tail)} lines were left out: the log was too long"


def test_lines_that_the_disk_has_no_space_for_leave_a_visible_gap(tmp_path: Path) -> None:
    receiver = LogReceiver()
    log = make_log(tmp_path, receiver)
    log.add(["before"])
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (0, hard))  # writes fail as on a full disk
    try:
        log.add(["lost", "lost too"])
        log.add(["and this"])
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    log.add(["after"])
    log.finish()
    log.close()

    assert receiver.lines == ["before", "==> 3 lines are missing: the agent's disk was full", "after"]
