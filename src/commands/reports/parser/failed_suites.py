"""Finds suites and runs that failed as a whole: in their set-up or tear-down, or because they were not run to the end.

Such a suite becomes one failed case with the name of the suite, in addition to the cases of its tests.
"""

from collections.abc import Mapping

from commands.reports.parser.building import Builder
from commands.reports.parser.case import Case
from commands.reports.parser.node_ids import Origin
from commands.reports.parser.tree import Element

_NUNIT_FAILED = frozenset({"failed", "failure", "error", "cancelled", "notrunnable"})
_NUNIT_NEVER_RAN = frozenset({"invalid", "cancelled"})
_TRX_ENDED_WELL = frozenset(
    {"", "passed", "completed", "warning", "failed", "inconclusive", "notexecuted", "notrunnable", "pending"}
)
# How xUnit's adapter and Microsoft's testing platform report that nothing but tests failed.
_TRX_OF_FAILED_TESTS = ("[FAIL]", "Exit code indicates failure: '2'")
_MAX_MESSAGES = 20


def has_nunit_suite_failed(attributes: Mapping[str, str], failed_cases: int, failed_suites: int) -> bool:
    """Returns whether a <test-suite> or <test-run> failed for a reason of its own: its tear-down failed, it cannot be
    run, or it failed although nothing in it failed. Returns False if it did not fail, or failed because of the cases
    and suites in it.
    """

    def word(name: str) -> str:
        return attributes.get(name, "").casefold()

    if word("runstate") == "notrunnable" or word("label") in _NUNIT_NEVER_RAN:
        return True
    if word("result") not in _NUNIT_FAILED:
        return False
    return word("site") == "teardown" or failed_cases + failed_suites == 0


def suite_case(name: str, failure: Element | None, default: str, origin: Origin, builder: Builder) -> Case:
    """Returns the case that stands for a failed suite. Its message is the message of `failure`; if there is none,
    `default`.
    """
    message, trace, declared_type = default, "", ""
    if failure is not None:
        message = failure.get("message") or failure.text_at("message").strip("\r\n") or default
        trace_node = failure.find("stack-trace")
        trace = builder.text(failure if trace_node is None and not failure.find("message") else trace_node).strip()
        declared_type = failure.get("type")
    return builder.case(
        name=name,
        status="failed",
        suite=origin.suite,
        message=message,
        trace=trace,
        error_kind="error",
        declared_type=declared_type,
        is_suite=True,
        origin=origin,
    )


class TrxRun:
    """Summary of a TRX file: the outcome of its <ResultSummary>, and the errors among its <RunInfo> elements."""

    def __init__(self) -> None:
        self._outcome = ""
        self._messages: list[str] = []

    def end(self, outcome: str) -> None:
        """Sets the outcome of the run."""
        self._outcome = outcome.casefold()

    def add_message(self, info: Element) -> None:
        """Adds the message of a <RunInfo>. Ignores a message that says only that tests failed."""
        if info.get("outcome").casefold() != "error":
            return
        text = info.text_at("Text").strip()
        if any(sentence in text for sentence in _TRX_OF_FAILED_TESTS):
            return
        if len(self._messages) < _MAX_MESSAGES:
            self._messages.append(text)

    def find_failure(self, failed_cases: int) -> str | None:
        """Returns why the run failed as a whole, or None if it did not."""
        ended_well = self._outcome in _TRX_ENDED_WELL and (self._outcome != "failed" or failed_cases > 0)
        if ended_well and not self._messages:
            return None
        return "\n".join(self._messages) or f"the outcome of the run is {self._outcome}"
