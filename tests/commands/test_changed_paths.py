"""Changed files through which traces of failures pass."""

import pytest

from domain.assistant.answers import Answer, Question
from domain.assistant.builtin_answers import answer
from domain.assistant.changed_paths import find_passed_paths
from domain.assistant.evidence import (
    BuildFacts,
    ChangeFacts,
    Evidence,
    FailedTest,
    FailureStart,
    LogExcerpt,
    with_sources,
)

PATHS = ["src/shop/discount.py", "README.md", "src/main/java/com/acme/Discount.java", "setup.py"]
TRACE = 'File "/build/src/shop/discount.py", line 3'
BUILD = BuildFacts(9, 3, "Nightly", "failed", "tests_failed", commit_sha="badc0de", passed=9, failed=1)


@pytest.mark.parametrize(
    ("trace", "passed"),
    [
        (TRACE, [0]),
        ("src/shop/discount.py:12: AssertionError", [0]),
        ("C:\\build\\src\\shop\\discount.py:12", [0]),
        ("shop/discount.py:12", [0]),
        ("  at com.acme.Discount.total(Discount.java:33)", [2]),
        ("  at org.other.Discount.total(Discount.java:33)", []),
        ("discount.py:12", []),
        ("other/discount.py:12", []),
        ("setup.py:1", [3]),
        ("vendor/setup.py:1", []),
        ("C:\\build\\setup.py:1", [3]),
        ('File "/build/setup.py", line 3', [3]),
        ("mysetup.py:1 src/shop/discount.pyc", []),
        ("", []),
    ],
)
def test_paths_in_a_trace(trace: str, passed: list[int]) -> None:
    assert find_passed_paths(PATHS, [trace]) == [PATHS[at] for at in passed]


def ask(
    *changes: ChangeFacts, message: str = "", trace: str = TRACE, has_test: bool = True, text: str = "assert 1 == 2"
) -> Answer:
    start = FailureStart(9, "badc0de", 8, "600d", 1, "commit")
    test = FailedTest(91, 1, "test_total", text, trace, first_bad=start)
    question = Question("chat" if message else "diagnosis", 12, build_id=9, message=message)
    excerpt = LogExcerpt(1, 1, ("src/shop/discount.py:3: error: invalid syntax",), 1.0, ("source_error",))
    build = BUILD if has_test else BuildFacts(9, 3, "Nightly", "failed", "command_failed", commit_sha="badc0de")
    tests, excerpts = ((test,), ()) if has_test else ((), (excerpt,))
    return answer(with_sources(Evidence(question, build=build, failures=tests, excerpts=excerpts, changes=changes)))


CHANGED = ChangeFacts("badc0de", 8, 9, "Use integers", "ann@example.com", ("src/shop/discount.py",), 3)
OTHER = ChangeFacts("0ther", 8, 9, "Say more", "", ("README.md",), 1)


@pytest.mark.parametrize("message", ["", "Why?", "What changed?", "What should I do?"])
def test_the_change_of_a_file_in_the_trace_is_named(message: str) -> None:
    found = ask(OTHER, CHANGED, message=message)
    claim = (
        "src/shop/discount.py was changed in commit badc0de by ann@example.com (“Use integers”), and the trace passes"
    )
    assert claim in found.text
    assert "Say more" not in found.text
    assert "commit:badc0de" in found.sources
    assert "git log 600d..badc0de" in found.suggested_fix


def test_changes_without_a_file_in_the_trace_are_only_listed() -> None:
    text = ask(OTHER, CHANGED, trace="").text
    assert (
        "After build 8, at latest with build 9, came 2 changes that the server knows: 0ther (“Say more”); bad" in text
    )
    assert "was changed in commit" not in text
    assert "changes that" not in ask(ChangeFacts("e1de", 3, 4)).text
    assert "changes that" not in ask(OTHER, text="ConnectionRefusedError: [Errno 111] Connection refused").text


def test_the_log_names_a_changed_file() -> None:
    assert "and the log names it." in ask(CHANGED, has_test=False).text


def test_a_change_is_a_source() -> None:
    test = FailedTest(91, 1, "t", first_bad=FailureStart(9, "badc0de", 8, "600d", 1, "commit"))
    evidence = Evidence(Question("diagnosis", 12, 9), build=BUILD, failures=(test,), changes=(CHANGED,))
    (source,) = [one for one in with_sources(evidence).sources if one.ref == "commit:badc0de"]
    assert "by ann@example.com: Use integers." in source.text
    assert "It changed src/shop/discount.py and 2 more files." in source.text
    assert "t first failed in build 9, which ran on commit badc0de." in source.text
