import json
import os
import re
import shutil
import signal
import subprocess
import time
from pathlib import Path

import pytest

from testhide.supervise.child import reason_in
from testhide.supervise.orphan_processes import end_recorded, record_running
from testhide.supervise.program import Program, started_at
from tests.support.stacks import gone, until

from .conftest import Python

# Services as (name, wave, shell script); they write their pids into the folder.
RUN = """
import json, sys
from pathlib import Path
from testhide.supervise.child import Service
from testhide.supervise.program import Program
from testhide.supervise.supervisor import Run, Say, Start, Supervisor
folder, tasks, services = Path(sys.argv[1]), json.loads(sys.argv[2]), json.loads(sys.argv[3])
def program(name, script):
    return Program(name, ("/bin/sh", "-c", f"echo $$ > {folder}/{name}.pid; {script}"))
steps = [Run(program(*task)) for task in tasks]
steps += [Start((Service(program(name, script), wave),)) for name, wave, script in services]
sys.exit(Supervisor([*steps, Say("ready")], folder).run())
"""
STAY = "while :; do sleep 0.05; done"


class Stack:
    def __init__(self, folder: Path, python: Python) -> None:
        self.folder = folder
        self._python = python

    def start(self, *services: tuple[str, int, str], tasks: tuple[tuple[str, str], ...] = ()) -> subprocess.Popen[str]:
        self.process = self._python("-c", RUN, str(self.folder), json.dumps(tasks), json.dumps(services))
        return self.process

    def pid(self, name: str) -> int:
        file = self.folder / f"{name}.pid"
        until(lambda: file.exists() and file.read_text().strip(), f"{name} starts")
        return int(file.read_text())

    def ready(self) -> None:
        assert self.process.stdout
        assert self.process.stdout.readline() == "ready\n"

    def stop(self, number: int = signal.SIGTERM) -> tuple[int, str, float]:
        begin = time.monotonic()
        self.process.send_signal(number)
        _, errors = self.process.communicate(timeout=10)
        return self.process.returncode, errors, time.monotonic() - begin


@pytest.fixture
def stack(tmp_path: Path, python: Python) -> Stack:
    return Stack(tmp_path, python)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP])
def test_a_signal_stops_everything_in_order(stack: Stack, number: int) -> None:
    def note(name: str) -> str:
        return f"trap 'echo {name} >> {stack.folder}/order; exit 0' TERM; {STAY}"

    stack.start(("engine", 2, note("engine")), ("server", 1, note("server")), ("agent", 0, note("agent")))
    stack.ready()
    pids = [stack.pid(name) for name in ("engine", "server", "agent")]
    code, errors, _ = stack.stop(number)
    assert (code, errors) == (0, "")
    assert gone(*pids)
    assert (stack.folder / "order").read_text().split() == ["agent", "server", "engine"]


def test_what_does_not_stop_is_killed_within_five_seconds(stack: Stack) -> None:
    deaf = (
        f"trap '' TERM; ( trap '' TERM; echo $$ > /dev/null; {STAY} ) & echo $! > {stack.folder}/grandchild.pid; {STAY}"
    )
    stack.start(*((f"deaf{wave}", wave, deaf if wave == 0 else f"trap '' TERM; {STAY}") for wave in range(3)))
    stack.ready()
    pids = [stack.pid(name) for name in ("deaf0", "deaf1", "deaf2", "grandchild")]
    code, errors, took = stack.stop()
    assert code == 0
    assert errors.count("does not stop: killed") == 3
    assert took < 5
    until(lambda: gone(*pids), "also the grandchild is gone")


def test_a_dead_child_is_started_again_after_growing_pauses(stack: Stack) -> None:
    stack.start(("shaky", 1, "echo out of luck >&2; exit 7"), ("calm", 1, STAY))
    stack.ready()
    assert stack.process.stderr
    lines = [stack.process.stderr.readline() for _ in range(4)]
    assert [re.findall(r"again in ([\d.]+) s", line) for line in lines] == [["0.1"], ["0.2"], ["0.4"], ["0.8"]]
    assert all("shaky ended (exit code 7)" in line and "out of luck" in line for line in lines)
    code, _, _ = stack.stop()
    assert code == 0
    assert (stack.folder / "logs/shaky.log").read_text().startswith("out of luck\nout of luck\n")


def test_a_killed_child_comes_back(stack: Stack) -> None:
    stack.start(("server", 1, f"echo a warning >&2; {STAY}"))
    stack.ready()
    before = stack.pid("server")
    os.kill(before, signal.SIGKILL)
    until(lambda: stack.pid("server") != before, "a new one")
    after = stack.pid("server")
    _, errors, _ = stack.stop()
    assert errors == (
        "testhide: server ended (SIGKILL), again in 0.1 s: somebody killed it, or the kernel did for want of memory\n"
    )
    assert gone(before, after)


def test_a_program_gets_a_smaller_share_of_the_processors() -> None:
    usual = Program("usual", ("sleep", "60")).start()
    process = Program("background", ("sleep", "60"), nice=5).start()
    try:
        ours = os.getpriority(os.PRIO_PROCESS, 0)
        assert os.getpriority(os.PRIO_PROCESS, usual.pid) == ours
        assert os.getpriority(os.PRIO_PROCESS, process.pid) == min(ours + 5, 19)
        group = Path(f"/proc/{process.pid}/autogroup")
        if group.exists() and (shares := group.read_text()):  # Linux shares the processors among sessions
            assert shares.split()[-1] == "5"
    finally:
        for one in (usual, process):
            one.kill()
            one.wait()


def test_a_failed_task_ends_the_start_with_its_last_words(stack: Stack) -> None:
    process = stack.start(("server", 1, STAY), tasks=(("migrate", "echo no table >&2; exit 1"),))
    output, errors = process.communicate(timeout=10)
    assert (process.returncode, output) == (1, "")
    assert errors == "testhide: migrate failed: no table\n"


def test_a_task_speaks_on_standard_output(stack: Stack) -> None:
    process = stack.start(tasks=(("greet", "echo hello"),))
    assert process.stdout
    assert process.stdout.readline() == "hello\n"
    stack.ready()
    stack.stop()
    assert (stack.folder / "logs/greet.log").read_text() == ""


def test_a_stop_during_the_start(stack: Stack) -> None:
    stack.start(tasks=(("slow", STAY),))
    pid = stack.pid("slow")
    code, _, took = stack.stop()
    assert code == 0
    assert took < 5
    assert gone(pid)


def test_a_killed_supervisor_takes_its_children_along(stack: Stack) -> None:
    stack.start(("engine", 2, STAY), ("deaf", 1, f"trap '' TERM; {STAY}"))
    stack.ready()
    pids = [stack.pid("engine"), stack.pid("deaf")]
    stack.process.kill()
    until(lambda: gone(*pids), "the watchdog ends them")


def test_a_copied_record_ends_nothing(tmp_path: Path) -> None:
    (tmp_path / "original").mkdir()
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as running:
        try:
            record_running(tmp_path / "original/processes.json", [("serve", running.pid)])
            shutil.copytree(tmp_path / "original", tmp_path / "copied")
            assert end_recorded(tmp_path / "copied/processes.json") == []
            assert started_at(running.pid) is not None
            (tmp_path / "original").rename(tmp_path / "moved")
            assert end_recorded(tmp_path / "moved/processes.json") == ["serve"]
        finally:
            running.kill()


def test_only_what_the_record_means_is_ended(tmp_path: Path) -> None:
    record = tmp_path / "processes.json"
    with subprocess.Popen(["sleep", "60"], start_new_session=True) as ours, subprocess.Popen(["sleep", "60"]) as other:
        try:
            record_running(record, [("ours", ours.pid), ("other", other.pid)])
            entries = json.loads(record.read_text())
            entries[1]["started"] = "another boot:1"
            record.write_text(json.dumps(entries))
            assert end_recorded(record) == ["ours"]
            assert ours.wait(5) == -signal.SIGTERM
            assert started_at(other.pid) is not None
            assert end_recorded(record) == []
        finally:
            other.kill()
            ours.kill()


MESSAGE = 'psycopg.errors.UndefinedTable: relation "alarms" does not exist'


@pytest.mark.parametrize(
    ("output", "reason"),
    [
        ([], "it said nothing"),
        (["begins", "testhide: The database cannot be reached.", ""], "testhide: The database cannot be reached."),
        (["FATAL:  no room", "the database is shut down"], "FATAL:  no room"),
        (["Traceback", MESSAGE, "LINE 1: SELECT FROM alarms", "                    ^"], MESSAGE),
        ([MESSAGE, "DETAIL:  none.", "CONTEXT:  PL/pgSQL function f() line 3 at SQL statement"], MESSAGE),
        (
            ["  | ExceptionGroup: (1 sub-exception)", f"    | {MESSAGE}", "    | LINE 1: S", "    |   ^", "    +-----"],
            MESSAGE,
        ),
    ],
)
def test_the_reason_of_an_end_is_the_message_of_its_error(output: list[str], reason: str) -> None:
    assert reason_in(output) == reason
