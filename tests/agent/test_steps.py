"""Setup, command, time limit, stop; and that no process of a build outlives it."""

from __future__ import annotations

import json
import os
import resource
import time
from pathlib import Path

import pytest
from tests.agent.fake_server import Answer, FakeServer, ReceivedBuild
from tests.agent.harness import AGENT_ENVIRONMENT, FOREVER, SYSTEM_PYTHON, Agent, StartAgent, processes_with

# A child, a child in a session of its own, and one that is fully detached.
FAMILY = """
{mark}=1 sleep 600 &
child=$!
{mark}=1 setsid sleep 600 &
{mark}=1 setsid sh -c '(setsid sleep 600 > /dev/null 2>&1 &)' &
while [ "$(grep -l {mark}=1 /proc/[0-9]*/environ 2> /dev/null | wc -l)" -lt 3 ]; do sleep 0.05; done
echo family
"""


@pytest.mark.usefixtures("agent")
def test_a_failing_setup_ends_the_build(server: FakeServer) -> None:
    stopped = server.queue("echo one; false\necho never")
    assert server.wait_finished(stopped)["exit_code"] == 1
    assert stopped.printed[-1] == "one", "a command ends at its first failure, as a line of setup does"

    build = server.queue("echo never", setup=["echo fine", "false; echo not after an error", "echo never"])

    verdict = server.wait_finished(build)

    assert build.printed == ["fine"]
    assert (verdict["exit_code"], verdict["reason"]) == (1, "setup_failed")
    assert "false; echo not after an error" in verdict["detail"]


def test_a_build_ends_when_the_disk_is_full(server: FakeServer, agent: Agent) -> None:
    agent.wait_printed("Connected")
    # The agent cannot write its files next to the workspace, as on a full disk.
    resource.prlimit(agent.process.pid, resource.RLIMIT_FSIZE, (1_000, resource.RLIM_INFINITY))

    verdict = server.wait_finished(server.queue("echo never"))

    assert (verdict["exit_code"], verdict["reason"]) == (None, "setup_failed")
    assert verdict["detail"].startswith("the agent failed: ")


@pytest.mark.usefixtures("agent")
def test_a_build_that_the_agent_fails_to_run_ends(server: FakeServer) -> None:
    verdict = server.wait_finished(server.queue("true", artifacts=None))

    assert (verdict["exit_code"], verdict["reason"]) == (None, "setup_failed")
    assert verdict["detail"].startswith("the agent failed: TypeError")


@pytest.mark.parametrize(("command", "code"), [("exit 3", 3), ("kill -9 $$", 137), ("no-such-program", 127)])
@pytest.mark.usefixtures("agent")
def test_the_exit_code_is_the_commands(server: FakeServer, command: str, code: int) -> None:
    verdict = server.wait_finished(server.queue(command))

    assert (verdict["exit_code"], verdict["reason"]) == (code, None)


@pytest.mark.usefixtures("agent")
def test_a_build_sees_only_its_own_environment(server: FakeServer) -> None:
    build = server.queue(
        "env", env={"MY": "own", "LANG": "C"}, secrets={"KEY": "s3cret"}, branch="main", commit_sha="abcd"
    )
    server.wait_finished(build)

    env = dict(line.split("=", 1) for line in build.printed)
    for shells_own in ("PWD", "OLDPWD", "SHLVL", "_"):
        env.pop(shells_own, None)
    root = Path(env["TESTHIDE_WORKSPACE"])
    assert env == {
        "JEST_JUNIT_REPORT_TEST_SUITE_ERRORS": "true",
        "PATH": AGENT_ENVIRONMENT["PATH"],
        "TZ": "UTC",
        "HTTPS_PROXY": "http://proxy.example",
        "HOME": str(root.parent / "home"),
        "TMPDIR": str(root.parent / "tmp"),
        "LANG": "C",
        "CI": "true",
        "PYTHONUNBUFFERED": "1",
        "PYTHONPATH": str(root.parent / "python"),
        "TESTHIDE": "true",
        "TESTHIDE_BUILD_ID": "1",
        "TESTHIDE_JOB_ID": "7",
        "TESTHIDE_JOB_NAME": "tests",
        "TESTHIDE_PROJECT_ID": "3",
        "TESTHIDE_BRANCH": "main",
        "TESTHIDE_COMMIT": "abcd",
        "TESTHIDE_WORKSPACE": str(root),
        "TESTHIDE_REPORT_XML": str(root / "junittests.xml"),
        "MY": "own",
        "KEY": "***",
    }


def test_the_time_limit_ends_the_whole_tree(server: FakeServer, agent: Agent) -> None:
    mark = f"LIMIT_{agent.process.pid}"
    build = server.queue(f"echo begin > $TESTHIDE_REPORT_XML; {mark}=1 setsid sleep 600 & wait", timeout_s=1)

    verdict = server.wait_finished(build)

    assert (verdict["exit_code"], verdict["reason"]) == (None, "timeout")
    assert not processes_with(mark)


def test_stop_ends_the_whole_tree(server: FakeServer, agent: Agent) -> None:
    mark = f"STOP_{agent.process.pid}"
    build = server.queue("trap 'echo bye; exit' TERM; " + FAMILY.format(mark=mark) + FOREVER, artifacts=["*"])
    server.wait_line(build, "family")
    server.stop(build, "cancelled by ada")

    verdict = server.wait_finished(build)

    assert (verdict["exit_code"], verdict["reason"], verdict["detail"]) == (
        None,
        "stopped",
        "cancelled by ada",
    )
    assert build.printed[-1] == "bye"
    assert not processes_with(mark)


def test_background_processes_end_with_the_command(server: FakeServer, agent: Agent) -> None:
    mark = f"BACKGROUND_{agent.process.pid}"
    begun = time.monotonic()
    build = server.queue(FAMILY.format(mark=mark) + "exit 0")

    assert server.wait_finished(build)["exit_code"] == 0, build.lines
    assert time.monotonic() - begun < 5
    assert not processes_with(mark)


@pytest.mark.usefixtures("agent")
def test_a_service_that_setup_starts_runs_on_for_the_command(server: FakeServer) -> None:
    build = server.queue("kill -0 $(cat pid) && echo alive", setup=["sleep 600 & echo $! > pid"])
    server.wait_finished(build)

    assert build.printed == ["alive"]


def test_stopping_one_of_two_builds_leaves_the_other(server: FakeServer, start: StartAgent, folder: Path) -> None:
    agent = start()
    marks = [f"PAIR{number}_{agent.process.pid}" for number in (1, 2)]
    gate = folder / "gate"
    until = f"while [ ! -e {gate} ]; do sleep 0.02; done; kill -0 $child && echo alive"
    first, second = (
        server.queue(FAMILY.format(mark=mark) + end) for mark, end in zip(marks, (FOREVER, until), strict=True)
    )
    server.wait_line(first, "family")
    server.wait_line(second, "family")

    server.stop(first)
    assert server.wait_finished(first)["reason"] == "stopped"
    assert not processes_with(marks[0])
    assert len(processes_with(marks[1])) >= 3
    gate.touch()

    assert server.wait_finished(second)["exit_code"] == 0
    assert second.printed[-1] == "alive"
    assert not processes_with(marks[1])


def test_a_lost_build_is_ended_without_a_report(server: FakeServer, agent: Agent) -> None:
    mark = f"LOST_{agent.process.pid}"
    build = server.queue(FAMILY.format(mark=mark) + FOREVER)
    server.wait_line(build, "family")
    server.lost = [(1, "the node was lost")]
    server.wait_idle()

    assert build.finished is None
    assert "Dropped build 1, attempt 1: the server does not want it any more (the node was lost)\n" in agent.printed
    assert not processes_with(mark)


@pytest.mark.usefixtures("agent")
def test_a_late_answer_to_a_heartbeat_does_not_end_the_next_attempt(server: FakeServer, folder: Path) -> None:
    gate = folder / "gate"
    seconds: list[ReceivedBuild] = []

    def answer_late(call: str, _query: dict[str, str], body: bytes) -> Answer | None:
        if call != "heartbeat" or json.loads(body)["running"] != [[1, 1]]:
            return None
        seconds.append(server.queue(f"while [ ! -e {gate} ]; do sleep 0.02; done", id=1, attempt=2))
        server.wait(lambda: seconds[0].started)
        return 200, {"lost": [[1, "reassigned"]]}

    server.fault = answer_late
    first = server.queue(FOREVER, id=1)
    server.wait(lambda: any(state["running"] == [[1, 2]] for state in server.heartbeats))
    gate.touch()

    assert server.wait_finished(seconds[0])["exit_code"] == 0, seconds[0].lines
    assert first.finished is None


def test_a_build_that_the_server_assigned_to_another_node_is_dropped(
    server: FakeServer, agent: Agent, folder: Path
) -> None:
    gate = folder / "gate"
    mark = f"CONFLICT_{agent.process.pid}"
    until = f"while [ ! -e {gate} ]; do sleep 0.02; done; echo more; "
    build = server.queue(FAMILY.format(mark=mark) + until + FOREVER)
    server.wait_line(build, "family")
    server.fault = lambda call, *_: (409, {"detail": "attempt 2 is elsewhere"}) if call == "log" else None
    gate.touch()
    server.wait_idle()

    assert build.finished is None
    assert "attempt 2 is elsewhere" in agent.printed
    assert not processes_with(mark)


@pytest.mark.usefixtures("agent")
def test_an_assignment_that_arrives_twice_is_one_build(server: FakeServer, folder: Path) -> None:
    gate = folder / "gate"
    build = server.queue(f"echo begin; while [ ! -e {gate} ]; do sleep 0.02; done")
    server.wait_line(build, "begin")
    again = {"id": 1, "attempt": 1, "job_name": "tests", "timeout_s": 60, "secrets": {}, "repository": None}
    server.send({"type": "run", "build": again})
    server.wait(lambda: not server.messages)
    gate.touch()

    assert server.wait_finished(build)["exit_code"] == 0, build.lines
    assert build.printed == ["begin"]


@pytest.mark.usefixtures("agent")
def test_a_build_leaves_nothing_on_disk(server: FakeServer, agent: Agent) -> None:
    build = server.queue("mkdir -p deep/er && touch deep/er/file && chmod 500 deep/er deep && chmod 400 deep/er/file")
    server.wait_finished(build)
    server.wait_idle()

    assert list((agent.workdir / "builds").iterdir()) == []


@pytest.mark.usefixtures("agent")
def test_a_command_that_cannot_be_started_says_why(server: FakeServer) -> None:
    verdict = server.wait_finished(server.queue("true", env={"BIG": "x" * 200_000}))

    assert verdict["reason"] == "setup_failed"
    assert "Argument list too long" in verdict["detail"]


def test_a_build_that_kills_its_supervisor_fails(server: FakeServer, start: StartAgent) -> None:
    """Only a trusted build can; the next build is not harmed."""
    start(python=SYSTEM_PYTHON, user=65534 if os.geteuid() == 0 else None)
    first, second = server.queue("kill -9 $PPID; exec sleep 0.2"), server.queue("echo fine")

    verdict = server.wait_finished(first)
    assert (verdict["exit_code"], verdict["reason"]) == (None, None), "the command fails"
    assert "supervisor" in verdict["detail"]
    server.wait_finished(second)
    assert second.printed == ["fine"]
