"""Setup lines: what they hand on to the command, and that no way of ending one turns a failure green."""

from __future__ import annotations

import pytest
from tests.agent.fake_server import FakeServer, ReceivedBuild

BASH, MISSING = {"shell": "bash"}, {"shell": "no-such-shell"}
pytestmark = pytest.mark.usefixtures("agent")


def _run(server: FakeServer, setup: list[str], command: str, shell: str = "sh") -> ReceivedBuild:
    """Return the build, after it has passed."""
    build = server.queue(command, setup=setup, shell=shell)
    assert server.wait_finished(build)["exit_code"] == 0, build.lines
    return build


@pytest.mark.parametrize("shell", ["sh", "bash"])
def test_variables_folder_and_umask_carry_over(server: FakeServer, shell: str) -> None:
    setup = [
        "export GREETING='it''s\n two lines' LANG=C; unset TZ; LOCAL=1; umask 027",
        "mkdir -p 'sub folder/$x' && cd 'sub folder/$x'",
        'echo "$GREETING" > greeting',
    ]
    build = _run(server, setup, 'cat greeting; pwd; umask; echo "$LANG${TZ-unset}${LOCAL-unset}"', shell)

    assert build.printed[:2] == ["its", " two lines"]
    assert build.printed[2].endswith("/workspace/sub folder/$x")
    assert build.printed[3:] == ["0027", "Cunsetunset"]


def test_an_activated_environment_carries_over(server: FakeServer) -> None:
    activate = "export PATH=$PWD/env/bin:$PATH\ndeactivate() { :; }"
    make = (
        f"mkdir -p env/bin; printf '#!/bin/sh\\necho mine' > env/bin/tool; chmod +x env/bin/tool; echo '{activate}' > a"
    )
    build = _run(server, [make, ". ./a"], "tool")

    assert build.printed == ["mine"]


def test_each_line_is_in_the_log_before_it_runs(server: FakeServer) -> None:
    build = _run(server, ["echo one", "echo two"], "echo three")

    start = build.lines.index("==> Setup: echo one")
    assert build.lines[start : start + 6] == [
        *("==> Setup: echo one", "one", "==> Setup: echo two", "two", "==> Command: echo three", "three"),
    ]


@pytest.mark.parametrize(
    ("line", "code"),
    [
        ("set +e; false", 1),
        ("set +e; exit 4", 4),
        ("trap 'echo bye' EXIT; exit 5", 5),
        ("exec false", 1),
        ("echo 'open", 2),
        ("if true", 2),
        ("f() { return 6; }; f", 6),
        ("return 7", 7),
        ("rm -f ../shell/*; false", 1),
    ],
)
def test_a_line_that_fails_ends_the_build(server: FakeServer, line: str, code: int) -> None:
    for shell in ("sh", "bash"):
        build = server.queue("echo never", setup=["echo first", line, "echo never"], shell=shell)
        verdict = server.wait_finished(build)

        assert (verdict["exit_code"], verdict["reason"]) == (code, "setup_failed")
        assert verdict["detail"] == f"{line} ended with exit code {code}"
        assert "never" not in build.printed


@pytest.mark.parametrize(
    "line",
    [
        "export X=1; exit 0",
        "export X=1; exec true",
        "export X=1; set -n\ntrue",
        "export X=1; umask() { printf '\\377\\n'; }",
    ],
)
def test_a_line_that_ends_its_shell_hands_nothing_on_and_says_so(server: FakeServer, line: str) -> None:
    build = _run(server, ["export KEPT=1", line], "echo ${X-unset}$KEPT")

    assert build.printed == ["unset1"]
    assert sum("Not carried over" in text for text in build.lines) == 1


def test_options_and_traps_of_a_line_end_with_it(server: FakeServer) -> None:
    lines = ["trap 'exit 0' EXIT", "set +e; set -aC; X=1", "exec > /dev/null"]
    build = server.queue("echo begin$X\nfalse\necho never", setup=lines)

    assert server.wait_finished(build)["exit_code"] == 1
    assert build.printed == ["begin1"]


def test_setup_reads_no_input_and_a_service_of_it_is_not_waited_for(server: FakeServer) -> None:
    build = _run(server, ["sleep 600 & cat; read x || echo empty"], "echo begin; wait; echo end")

    assert build.printed == ["empty", "begin", "end"]


def test_a_folder_that_is_gone_fails_the_next_line(server: FakeServer) -> None:
    build = server.queue("echo never", setup=["mkdir a; cd a; rmdir ../a", "echo never"])

    assert server.wait_finished(build)["reason"] == "setup_failed"
    assert "never" not in build.printed


def test_setup_cannot_lose_the_selected_tests_or_the_plugin(server: FakeServer) -> None:
    build = server.queue(
        'cat "$TESTHIDE_TEST_IDS_FILE"; echo "$PYTHONPATH"; echo "<testsuite/>" > "$TESTHIDE_REPORT_XML"',
        setup=["export PYTHONPATH=src TESTHIDE_TEST_IDS_FILE=", "export TESTHIDE_REPORT_XML=$PWD/other.xml"],
        test_ids=["test_a.py::test"],
    )
    server.wait_finished(build)

    assert build.printed[0] == "test_a.py::test"
    assert build.printed[1].endswith("/python:src")
    assert list(build.reports) == ["other.xml"]


def test_a_line_may_be_longer_than_an_argument(server: FakeServer) -> None:
    build = _run(server, [f"# {'x' * 200_000}", "echo setup"], "echo command")

    assert build.printed == ["setup", "command"]


def test_commands_are_not_in_the_list_of_processes(server: FakeServer) -> None:
    build = _run(server, [], "cat /proc/$$/cmdline | tr '\\0' ' '; : hidden")

    assert "hidden" not in build.printed[0]


def test_bash_has_pipefail_and_hands_functions_on(server: FakeServer) -> None:
    failed = server.queue("[[ a == a ]] && false | true", **BASH)
    assert server.wait_finished(failed)["exit_code"] == 1
    stopped = server.queue("echo never", setup=["false | true"], **BASH)
    assert server.wait_finished(stopped)["reason"] == "setup_failed"

    build = _run(server, ["activate() { export ACTIVE=$1; }", "activate mine"], 'echo "$ACTIVE"', "bash")
    assert build.printed == ["mine"]
    assert any("Steps run in" in line and "bash" in line for line in build.lines)


def test_a_missing_shell_fails_the_build(server: FakeServer) -> None:
    verdict = server.wait_finished(server.queue("echo never", **MISSING))

    assert verdict["reason"] == "setup_failed"
    assert "no-such-shell" in verdict["detail"]
