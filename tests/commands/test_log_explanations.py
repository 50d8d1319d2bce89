"""Excerpts of logs: for the formats of many tools, the first excerpt shows the cause."""

from itertools import pairwise

import pytest
from hypothesis import given
from hypothesis import strategies as st

from domain.failures.log_explanations import MAX_EXCERPTS, MAX_LINES, Excerpt, explain, find_noise
from domain.failures.log_signals import clean, drop_commands
from tests.commands.failing_builds import MORE_FAILURES
from tests.commands.failing_outputs import FAILURES as FAILED_TESTS

FAILURES = FAILED_TESTS | MORE_FAILURES

SETUP = """\
$ pip install -r requirements.txt
Collecting errorhandler==2.0
  Downloading errorhandler-2.0-py3-none-any.whl (12 kB)
Successfully installed errorhandler-2.0
npm WARN deprecated request@2.88.2: request has been deprecated
warning: unused variable `error`
[INFO] 0 errors, 0 warnings
tests/test_errors.py::test_raises_exception PASSED                       [ 10%]
ok 12 - should fail when the input is invalid
  ✓ throws an error if the file does not exist (3 ms)
--- PASS: TestFailure (0.00s)
12:00:01.123 [pool-1] ERROR o.e.Server - Request failed, as this test wants it to
java.lang.IllegalStateException: simulated failure
	at org.example.Server.handle(Server.java:31)
	at org.example.ServerTest.request(ServerTest.java:12)
Caused by: java.net.ConnectException: Connection refused
	at org.example.Client.connect(Client.java:9)
Retrying download (attempt 1 of 3): connection reset by peer
Download complete
""".splitlines()
UPLOAD = [
    "Uploading artifacts...",
    "WARNING: coverage.xml: no matching files. Ensure that the artifact path is relative to the working directory",
    "Cleaning up project directory and file based variables",
]


def _shown(log: list[str], excerpt: Excerpt) -> str:
    return "\n".join(log[excerpt.first_line - 1 : excerpt.last_line])


@pytest.mark.parametrize("tool", FAILURES)
@pytest.mark.parametrize("end", ["", "make: *** [test] Error 1", "ERROR: Job failed: exit code 1"], ids=str)
def test_the_first_excerpt_shows_the_cause(tool: str, end: str) -> None:
    text, cause = FAILURES[tool]
    log = [*SETUP, *(f"Compiling module_{n} error_{n}.c" for n in range(40)), *text.splitlines(), *UPLOAD]
    if end:
        log.append(end)
    assert cause in _shown(log, explain(log)[0])


@pytest.mark.parametrize("tool", FAILURES)
def test_colours_times_and_carriage_returns_change_nothing(tool: str) -> None:
    text, cause = FAILURES[tool]
    log = [
        *(f"2024-05-01T10:00:0{n % 10}.1234567Z {line}" for n, line in enumerate(SETUP)),
        *(f"2024-05-01T10:00:08Z progress 1%\rCompiling module_{n} error_{n}.c" for n in range(40)),
        *(f"2024-05-01T10:00:09.1234567Z \x1b[0m{line}\x1b[0m\r" for line in text.splitlines()),
    ]
    assert cause in _shown(log, explain(log)[0])


def test_a_failure_that_the_last_passed_build_had_too_counts_less() -> None:
    noisy = [
        "Starting",
        "Traceback (most recent call last):",
        '  File "/a.py", line 3, in f',
        "OSError: no display",
        "Done",
    ]
    failing = [*noisy, *["ok"] * 20, "config.c:3:1: error: 'x' undeclared", "make: *** [x] Error 1"]
    assert explain(failing, find_noise(noisy))[0].first_line > 20
    crashed = [*noisy, *["ok"] * 20, "worker failed"]
    assert explain(crashed)[0].first_line == 1
    assert explain(crashed, find_noise(noisy))[0].last_line == len(crashed)


def test_the_text_of_a_command_explains_nothing() -> None:
    commands = [
        "==> Setup: echo 'error: out of memory'",
        "==> Command: echo 'FAILED: no such file or directory'; exit 1",
    ]
    log = [*commands, *["ok"] * 40, "==> Exit code 1"]
    assert not any("==> Command" in _shown(log, excerpt) for excerpt in explain(log))


@pytest.mark.parametrize(
    "echo",
    [
        '==> Command: df || { echo "ERROR: No space left on device"; exit 3; }',
        "==> Build 12 of job Tests of the error ENOSPC, attempt 1",
        "+ echo 'ERROR: No space left on device'",
        "++ echo 'ERROR: No space left on device'",
    ],
)
def test_a_command_that_is_repeated_is_no_part_of_an_excerpt_that_begins_after_it(echo: str) -> None:
    log = ["started", echo, "cp: error", "==> Exit code 1"]
    (found,) = explain(log)
    assert (found.first_line, found.last_line) == (3, 4)
    assert not drop_commands([echo])


def test_the_first_error_of_pytest_is_shown_however_long_the_source_before_it() -> None:
    source = [
        "    def connect(address, timeout=None):",
        '        """Raises the last error',
        "        if it cannot connect.",
    ]
    log = [
        "=================================== FAILURES ===================================",
        "__________________________________ test_fetch __________________________________",
        "",
        "address = ('127.0.0.1', 9), timeout = 1, errors = None",
        *source * 20,
        ">       sock.connect(address)",
        "E       ConnectionRefusedError: [Errno 111] Connection refused",
        "",
        "shop/client.py:81: ConnectionRefusedError",
        "",
        "During handling of the above exception, another exception occurred:",
        *source * 20,
        ">       raise URLError(error)",
        "E       shop.URLError: error of the shop",
        "shop/client.py:99: URLError",
        "=========================== short test summary info ============================",
        "FAILED tests/test_cart.py::test_fetch - shop.URLError: error of the shop",
    ]
    first, *others = explain(log)
    assert "ConnectionRefusedError: [Errno 111]" in _shown(log, first)
    assert first.reasons[0] == "test_failure"
    assert not any("Raises the last error" in _shown(log, other) for other in others)
    printed = [*log[:4], "----- Captured stdout call -----", "    OSError: No space left on device"]
    assert "exception" in explain(printed)[0].reasons


def test_excerpts_do_not_overlap_and_have_byte_offsets() -> None:
    log = [*SETUP, *FAILURES["jest"][0].splitlines(), "Ünïcode ✗", *FAILURES["gcc"][0].splitlines()]
    data = "".join(line + "\n" for line in log).encode()
    excerpts = explain(log)
    for one in excerpts:
        assert data[one.first_byte : one.last_byte].decode() == _shown(log, one)
        assert one.last_line - one.first_line < MAX_LINES
    ranges = sorted((one.first_line, one.last_line) for one in excerpts)
    assert all(before[1] < after[0] for before, after in pairwise(ranges))


def test_characters_that_make_a_line_look_different_are_not_shown() -> None:
    line = "FAILED: \u202elmth.tset\u202c\x9b2J \u2066x\u2069\x7f\u200f größe \u061c日本"
    assert clean(line) == "FAILED: lmth.tset2J x größe 日本"


def test_a_log_without_signals_gives_its_end() -> None:
    (end,) = explain([*(f"step {n}" for n in range(100)), "", ""])
    assert (end.first_line, end.last_line, end.reasons) == (86, 100, ("end_of_log",))
    assert explain([]) == []
    assert explain(["", "  "]) == []


_pieces = st.sampled_from(
    [
        "error",
        "FAILED",
        ": ",
        "(",
        "1",
        "\t",
        "\r",
        "\x1b[31m",
        "at ",
        "Error",
        "/",
        "x" * 300,
        " > ",
        "é",
        "\ud800",
        "_" * 90,
    ]
)


@given(st.lists(st.lists(_pieces, max_size=12).map("".join), max_size=80))
def test_any_text_gives_excerpts_within_the_log(lines: list[str]) -> None:
    scores = [one.score for one in explain(lines)]
    assert scores == sorted(scores, reverse=True)
    for one in explain(lines):
        assert 1 <= one.first_line <= one.last_line <= len(lines)
        assert one.last_line - one.first_line < MAX_LINES
        assert 0 <= one.score <= 1
        shown = "\n".join(lines[one.first_line - 1 : one.last_line]).encode("utf-8", "surrogatepass")
        assert one.last_byte - one.first_byte == len(shown)
    assert len(explain(lines)) <= MAX_EXCERPTS
