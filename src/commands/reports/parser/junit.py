"""Reads JUnit XML, and the additions of Testhide Report Format v1. A <testcase> is usually one case. If it also
contains the results of other attempts at the test (folded attempts), it is several cases.

Surefire writes folded attempts. <flakyFailure> and <flakyError> are earlier attempts at a test that finally passed.
<rerunFailure> and <rerunError> are later attempts at a test that failed at first. The parser returns attempts in the
order in which they ran.
"""

from commands.reports.parser.building import Builder, property_pairs
from commands.reports.parser.case import Case, ErrorKind, Status
from commands.reports.parser.node_ids import Origin
from commands.reports.parser.tree import Element
from commands.reports.parser.values import first_line, milliseconds, whole_number

RESOLUTIONS = frozenset(
    {
        "passed",
        "skipped",
        "collection error",
        "teardown error",
        "known issue",
        "need to reopen",
        "resolved in branch",
        "verified at branch",
        "unresolved",
    }
)
_PASSED = frozenset(
    {
        *("passed", "pass", "success", "successful", "succeeded", "ok", "run", "completed", "executed", "done"),
        *("true", "fixed", "flaky", "xpass", "xpassed", "bpass"),
    }
)
"""Values of the attributes `status` and `result` by which a test passed, in lower case. Qt Test marks results of
blacklisted tests by `b`.
"""
_NOT_RUN = frozenset(
    {
        *("notrun", "not run", "not_run", "notexecuted", "not executed", "untested", "todo", "skipped", "skip"),
        *("disabled", "ignored", "ignore", "pending", "suppressed", "excluded", "inconclusive"),
        *("xfail", "xfailed", "bfail", "bskip"),
    }
)
"""Values of the attributes `status` and `result` by which a test counts as skipped, in lower case."""
_FAILED = frozenset(
    {
        *("failed", "failure", "fail", "error", "errored", "timeout", "timedout", "timed out", "regression"),
        *("crashed", "crash", "aborted", "broken", "panicked", "interrupted"),
    }
)
"""Values of the attributes `status` and `result` by which a test failed, in lower case. An unknown value, which is in
none of the three sets, is a failure, too.
"""
_KINDS: dict[str, ErrorKind] = {
    "failure": "failure",
    "error": "error",
    "flakyFailure": "failure",
    "flakyError": "error",
    "rerunFailure": "failure",
    "rerunError": "error",
}
XDIST_WORKER = "xdist_worker"
"""Name of the property with the worker that ran a test. With `--dist each`, pytest runs each test on every worker."""
MAY_FAIL = "TEST_CASE tagged with !mayfail"
"""Message of the <skipped> that Catch2 adds to a test that may fail, or should fail."""
TODO = "todo"
"""Type of the <skipped> that the test runner of Node.js adds to a test that may fail."""
HAS_FAILED = frozenset({"failure", "error"})


def cases(node: Element, suite: str, origin: Origin, builder: Builder) -> tuple[list[Case], int]:
    """Returns the attempts in a <testcase> in the order in which they ran, and the index of the main attempt. The
    <testcase> itself describes the main attempt; elements inside of it describe the others.
    """
    if not node.children and not node.attributes.keys() & _EXTRAS:
        return [_plain(node, suite, origin, builder)], 0
    verdicts = [child for child in node.children if child.name in _KINDS]
    if not verdicts:
        return [_main(node, [], suite, origin, builder)], 0
    main = [child for child in verdicts if child.name in HAS_FAILED]
    earlier = [child for child in verdicts if child.name.startswith("flaky")]
    later = [child for child in verdicts if child.name.startswith("rerun")]
    attempts = [
        *(_attempt(node, verdict, suite, origin, builder) for verdict in earlier),
        _main(node, main, suite, origin, builder),
        *(_attempt(node, verdict, suite, origin, builder) for verdict in later),
    ]
    return attempts, len(earlier)


_EXTRAS = frozenset({"fail_id", "test_resolution", "status", "result"})


def _plain(node: Element, suite: str, origin: Origin, builder: Builder) -> Case:
    """Returns the case of an element without child elements: the test passed or did not run. Most cases are like this,
    so this function is kept faster than `_main`, which reads the others.
    """
    get = node.attributes.get
    status: Status = "passed"
    if origin.may_have_bailed and get("time") == "0":
        status = "skipped"
        builder.notes.add("not_run")
    return builder.case(
        name=get("name", ""),
        status=status,
        suite=suite,
        classname=get("classname", ""),
        file=get("file", ""),
        line=whole_number(get("line", ""), "line", builder.notes),
        duration_ms=milliseconds(get("time", ""), builder.notes),
        origin=origin,
    )


def _main(node: Element, failures: list[Element], suite: str, origin: Origin, builder: Builder) -> Case:
    get = node.attributes.get
    resolution = get("test_resolution", "")
    status, message, trace, kind = _read_verdict(node, failures, builder)
    _check_resolution(node, resolution, status, builder)
    return builder.case(
        name=get("name", ""),
        status=status,
        suite=suite,
        classname=get("classname", ""),
        file=get("file", ""),
        line=whole_number(get("line", ""), "line", builder.notes),
        duration_ms=milliseconds(get("time", ""), builder.notes),
        message=message,
        trace=trace,
        error_kind=kind,
        declared_type=failures[0].get("type") if failures else "",
        system_out=builder.text(node.find("system-out")),
        system_err=builder.text(node.find("system-err")),
        fail_id=get("fail_id", ""),
        resolution=resolution,
        known_issue=status == "failed" and resolution.strip().casefold() == "known issue",
        properties=[pair for child in node.each("properties") for pair in property_pairs(child)],
        origin=origin,
    )


def _read_verdict(node: Element, failures: list[Element], builder: Builder) -> tuple[Status, str, str, ErrorKind]:
    """Returns (status, message, traceback, kind of failure) of a case. A case with a failure and a <skipped> counts as
    failed, except if the <skipped> contains MAY_FAIL or TODO: then the test may fail, and counts as skipped. Of the
    attributes `status` and `result`, the worse counts.
    """
    skipped = node.find("skipped")
    if failures:
        traces = [text for failure in failures if (text := builder.text(failure).strip("\n"))]
        if skipped is not None and (skipped.get("message") == MAY_FAIL or skipped.get("type") == TODO):
            return "skipped", skipped.get("message"), "\n\n".join(traces), ""
        return "failed", failures[0].get("message"), "\n\n".join(traces), _KINDS[failures[0].name]
    if skipped is None and "status" not in node.attributes and "result" not in node.attributes:
        return "passed", "", "", ""
    words = [word for name in ("status", "result") if (word := node.get(name).strip().casefold())]
    failing = [word for word in words if word in _FAILED]
    if skipped is not None and not failing:
        text = builder.text(skipped).strip()
        return "skipped", skipped.get("message") or first_line(text, builder.limits.name), text, ""
    if unknown := [word for word in words if word not in _PASSED | _NOT_RUN | _FAILED]:
        builder.notes.add("unknown_status", f"'{unknown[0][:40]}' of {node.get('name')[:80]}")
    for word in failing + unknown:
        is_plain = word in ("failed", "failure", "fail", "error")
        return "failed", "" if is_plain else word, "", "error" if word.startswith("error") else "failure"
    return "passed" if _PASSED.issuperset(words) else "skipped", "", "", ""


def _attempt(node: Element, verdict: Element, suite: str, origin: Origin, builder: Builder) -> Case:
    trace = builder.text(verdict.find("stackTrace")) or verdict.text().strip()
    get = node.attributes.get
    return builder.case(
        name=get("name", ""),
        status="failed",
        suite=suite,
        classname=get("classname", ""),
        file=get("file", ""),
        line=whole_number(get("line", ""), "line", builder.notes),
        duration_ms=milliseconds(verdict.get("time"), builder.notes),
        message=verdict.get("message"),
        trace=trace,
        error_kind=_KINDS[verdict.name],
        declared_type=verdict.get("type"),
        system_out=builder.text(verdict.find("system-out")),
        system_err=builder.text(verdict.find("system-err")),
        properties=[
            pair
            for child in node.each("properties")
            for pair in property_pairs(child)
            if pair[0] in ("nodeid", XDIST_WORKER)
        ],
        is_folded=True,
        origin=origin,
    )


def _check_resolution(node: Element, resolution: str, status: Status, builder: Builder) -> None:
    if not resolution:
        return
    word = resolution.strip().casefold()
    if word not in RESOLUTIONS:
        builder.notes.add("unknown_resolution", f"{resolution[:80]} of {node.get('name')[:80]}")
    elif (word in ("passed", "skipped") and status != word) or (
        word in ("collection error", "teardown error", "known issue") and status != "failed"
    ):
        builder.notes.add("resolution_mismatch", f"{resolution} of {node.get('name')[:80]}, which {status}")
