"""Processes and files that a killed agent leaves behind."""

from __future__ import annotations

import os
import signal
import subprocess
from pathlib import Path

import pytest
from tests.agent.fake_server import FakeServer
from tests.agent.harness import FOREVER, SYSTEM_PYTHON, Agent, StartAgent, processes_until, processes_with

from agent.process import linux, orphans


def test_a_killed_agent_leaves_no_process_and_the_next_one_no_file(server: FakeServer, start: StartAgent) -> None:
    agent = start()
    mark = f"KILLED_{agent.process.pid}"
    server.wait_line(server.queue(f"export {mark}=1; setsid sleep 600 & echo begin; {FOREVER}"), "begin")
    agent.process.kill()
    agent.wait()
    server.wait(lambda: not processes_with(mark) or (server.changed.wait(0.02) and False))
    assert list((agent.workdir / "builds").iterdir())

    server.connects.clear()
    start()
    server.wait(lambda: server.connects)
    assert not (agent.workdir / "builds").exists()


def test_a_deep_folder_is_removed(server: FakeServer, agent: Agent) -> None:
    """It is deeper than Python recurses, than a path may be long, and than a process may have files open."""
    make = 'import os\nfor _ in range(3000): os.mkdir("d"); os.symlink("/", "link"); os.chdir("d")\nopen("f", "w")'
    build = server.queue(f"{SYSTEM_PYTHON} -c '{make}'; chmod 0 d/d d")
    assert server.wait_finished(build)["exit_code"] == 0, build.lines
    server.wait_idle()
    assert list((agent.workdir / "builds").iterdir()) == []


def test_what_cannot_be_removed_does_not_keep_the_agent(server: FakeServer, start: StartAgent, folder: Path) -> None:
    kept = folder / "work" / "builds" / "1-1" / "file"
    kept.parent.mkdir(parents=True)
    kept.touch()
    if subprocess.run(["chattr", "+i", kept], stderr=subprocess.DEVNULL, check=False).returncode:
        pytest.skip("this user or file system makes no file immutable")
    try:
        agent = start()
        build = server.queue("echo runs")
        assert server.wait_finished(build)["exit_code"] == 0, build.lines
        agent.end()
    finally:
        (kept,) = (folder / "work").rglob("file")
        subprocess.run(["chattr", "-i", kept], check=True)
    assert f"Cannot remove all of {folder}/work/builds" in agent.printed

    server.connects.clear()
    start()
    server.wait(lambda: server.connects)
    assert not kept.exists()


def test_the_next_agent_ends_processes_that_outlived_agent_and_supervisor(
    server: FakeServer, start: StartAgent
) -> None:
    agent = start("--trust-builds")  # others of root's agent have namespaces, with which the kernel ends them
    mark = f"600.{agent.process.pid}"
    command = f"setsid sleep {mark} & (setsid sleep {mark} &) ; env -i sleep {mark} & echo begin; {FOREVER}"
    server.wait_line(server.queue(command), "begin")
    processes_until(mark, 3)
    supervisors = [pid for pid in linux.list_descendants(agent.process.pid) if _is_supervisor(pid)]
    # Stopped, so that they do not notice that the agent dies.
    for number in (signal.SIGSTOP, signal.SIGKILL):
        for pid in supervisors:
            os.kill(pid, number)
        agent.process.kill()
    agent.wait()
    assert len(processes_with(mark)) >= 3, "they run on"
    bystander = subprocess.Popen(["sleep", f"{mark}1"], start_new_session=True)
    try:
        server.connects.clear()
        again = start()
        server.wait(lambda: server.connects)
        assert processes_with(f"{mark}\0") == []
        assert bystander.poll() is None
        assert not (agent.workdir / "builds").exists()
        assert "left running" in again.printed
    finally:
        bystander.kill()
        bystander.wait()


def test_sessions_of_another_boot_or_leader_are_left_alone(folder: Path) -> None:
    bystander = subprocess.Popen(["sleep", "600"], start_new_session=True)
    try:
        build = folder / "1-1"
        build.mkdir()
        process = linux.read_process(bystander.pid)
        assert process is not None
        other_boot = f"0-0-0 {process.pid} {process.started}"
        other_leader = f"{linux.read_boot_id()} {process.pid} {process.started - 1}"
        (build / "processes").write_text(f"{other_boot}\n{other_leader}\n")
        orphans.end_orphans(folder)
        assert bystander.poll() is None
        orphans.record_process(str(build / "processes"), bystander.pid)
        orphans.end_orphans(folder)
        assert bystander.wait(5) == -signal.SIGKILL
    finally:
        bystander.kill()
        bystander.wait()


def _is_supervisor(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/cmdline").read_bytes().endswith(b"\0slot\0")
    except OSError:  # it has ended since it was listed
        return False
