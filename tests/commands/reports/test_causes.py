"""Failures of a build with one cause are told once, and those of the infrastructure are told from those of tests."""

import pytest

from commands.reports.causes import EqualFailures, find_cause_kind, find_causes


def _failure(number: int, message: str, functions: tuple[str, ...], results: int = 1) -> EqualFailures:
    calls = "".join(f'  File "/src/{name}.py", line {number}, in {name}\n    x\n' for name in reversed(functions))
    trace = f"Traceback (most recent call last):\n{calls}{message}"
    return EqualFailures(f"{number:016x}", results, [number], message, trace)


CONNECT = ("connect", "open_database", "load_cart")


def test_failures_at_one_place_are_one_cause() -> None:
    failures = [
        _failure(1, "KeyError: 'total'", ("add_up", "checkout", "test_a")),
        _failure(2, "OSError: database gone (shop)", (*CONNECT, "test_b")),
        _failure(3, "OSError: database gone (users)", (*CONNECT, "test_c"), results=5),
        _failure(4, "ValueError: database gone (users)", (*CONNECT, "test_c")),
    ]
    causes = find_causes(failures)
    assert [(cause.results, cause.result_ids) for cause in causes] == [(6, [2, 3]), (1, [1]), (1, [4])]
    assert causes[0].message == "OSError: database gone (shop)"
    assert causes[0].signatures == [failure.signature for failure in failures[1:3]]


def test_tests_whose_names_differ_in_numbers_are_different_places() -> None:
    failures = [
        _failure(1, "AssertionError: price is negative", ("test_1",)),
        _failure(2, "AssertionError: list of countries is empty", ("test_2",)),
        _failure(3, "AssertionError: no tax", ("check", "lambda$sum$1")),
        _failure(4, "AssertionError: no name", ("check", "lambda$sum$2")),
    ]
    assert [cause.result_ids for cause in find_causes(failures)] == [[3, 4], [1], [2]]


def test_without_a_trace_messages_of_one_statement_are_one_cause() -> None:
    names = ["ann", "bob", "cleo", "dora", "emil", "fred"]
    messages = [f"no cart for {name} after {len(name)}.5 s" for name in names] + ["no cart for sale", "page not found"]
    failures = [EqualFailures(str(n), 1, [n], message, "") for n, message in enumerate(messages)]
    assert [cause.result_ids for cause in find_causes(failures)] == [[0, 1, 2, 3, 4, 5], [6], [7]]
    assert len(find_causes(failures[:3])) == 3  # as few different words may say different things


def test_without_a_trace_only_equal_messages_are_one_cause() -> None:
    failures = [
        EqualFailures(str(number), 1, [number], message, "")
        for number, message in enumerate(["wrong total", "wrong total", "wrong name", "", ""])
    ]
    assert [cause.result_ids for cause in find_causes(failures)] == [[0, 1], [2], [3], [4]]


@pytest.mark.parametrize(
    ("message", "kind"),
    [
        ("requests.exceptions.ConnectionError: Connection refused", "infrastructure"),
        ("java.net.UnknownHostException: db: Name or service not known", "infrastructure"),
        ("OSError: [Errno 28] No space left on device", "infrastructure"),
        ("java.lang.OutOfMemoryError: Java heap space", "infrastructure"),
        ("AssertionError: expected 'ok' but was 'connection refused'", "test"),
        ("KeyError: 'total'", "test"),
        ("", "test"),
    ],
)
def test_kinds(message: str, kind: str) -> None:
    assert find_cause_kind(message, "") == kind
