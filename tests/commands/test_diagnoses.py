"""Cause of a failed build, given the causes of its failures and its log."""

import pytest

from domain.assistant.answers import Question
from domain.assistant.diagnoses import Diagnosis, diagnose
from domain.assistant.evidence import BuildFacts, Evidence, excerpt_log

COMMAND_FAILED = BuildFacts(9812, 3, "Nightly", "failed", "command_failed", exit_code=1)


def diagnose_log(*lines: str) -> Diagnosis:
    evidence = Evidence(Question("diagnosis", 12, build_id=9812), build=COMMAND_FAILED, excerpts=excerpt_log(lines))
    return diagnose(evidence)


@pytest.mark.parametrize("echo", ["==> Command: ", "==> Setup: ", "+ ", "2026-11-28T05:00:00Z ++ "])
def test_what_a_command_would_print_is_not_what_it_printed(echo: str) -> None:
    command = "df / >/dev/null || { echo ERROR: No space left on device; exit 3; }; make"
    found = diagnose_log("started", f"{echo}{command}", "Python 3.11.7", "error: it went wrong", "==> Exit code 1")
    assert found.cause.classification != "infra"
    assert "space" not in found.cause.root_cause
    printed = diagnose_log(f"{echo}{command}", "ERROR: No space left on device", "==> Exit code 3")
    assert printed.cause.classification == "infra"
