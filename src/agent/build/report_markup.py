"""Distinguishes the markup of test reports from their content. The markup is never masked: a report could not be read
if a secret such as `test` were masked in the names of its elements.
"""

from __future__ import annotations

import re

from formats.reports import DIALECTS

_ELEMENTS = frozenset(name.encode() for name in DIALECTS) | frozenset(
    b"properties property failure error skipped system-out system-err rerunFailure"
    b" rerunError flakyFailure flakyError results reason message"
    b" stack-trace output assertions assertion environment settings setting categories category assemblies assembly"
    b" errors collection test traits trait exception-type Times TestSettings Results"
    b" TestResult Output ErrorInfo Message StackTrace StdOut StdErr DebugTrace TextMessages TestDefinitions"
    b" UnitTest Execution TestMethod TestEntries TestEntry TestLists TestList ResultSummary Counters RunInfos"
    b" RunInfo InnerResults CollectorDataEntries".split()
)
_ATTRIBUTES = frozenset(
    b"name classname fullname testName testId className storage codeBase path file line message type status result"
    b" outcome executed success label site time duration tests failures errors skipped disabled total passed failed"
    b" inconclusive value id fail_id test_resolution schema_version testcasecount exception-type source-file"
    b" hostname timestamp start-time end-time run-date method collection executionId".split()
)
_NAME = re.compile(rb"(?:\0?[\w.:-]\0?)+")
_BEFORE_ELEMENT = re.compile(rb"<\0?/?\0?\Z")
_BEFORE_ATTRIBUTE = re.compile(rb"\s\0?\Z")
_AFTER_ATTRIBUTE = re.compile(rb"\0?[\s\0]*=")
_LONGEST = 64  # bytes of a name of the markup, with zero bytes of UTF-16 and a prefix


def is_markup(data: bytes, start: int, end: int) -> bool:
    """Return whether `data[start:end]` lies in the name of an element or attribute that the formats of reports define.
    Such a name is in every report of its format, so it says nothing about a secret that has the same letters.
    """
    first = max(0, start - _LONGEST)
    near = data[first : end + _LONGEST]
    for found in _NAME.finditer(near):
        if found.start() <= start - first and end - first <= found.end():
            name = found.group().replace(b"\0", b"").rpartition(b":")[2]
            before, after = near[: found.start()], near[found.end() :]
            is_element = name in _ELEMENTS and _BEFORE_ELEMENT.search(before)
            is_attribute = name in _ATTRIBUTES and _BEFORE_ATTRIBUTE.search(before) and _AFTER_ATTRIBUTE.match(after)
            return bool(is_element or is_attribute)
    return False
