"""Reads the report formats of .NET: NUnit 3 (<test-run>), xUnit 2 (<assemblies>) and Visual Studio's TRX
(<TestRun>).
"""

import hashlib
import re
from collections import Counter
from collections.abc import Collection, Iterator, Mapping

import msgspec
import zstandard

from commands.reports.parser.building import Builder, property_pairs
from commands.reports.parser.case import Case, ErrorKind, Status
from commands.reports.parser.names import cut_name
from commands.reports.parser.node_ids import Origin, node_id
from commands.reports.parser.tree import Element
from commands.reports.parser.values import milliseconds

_NUNIT: dict[str, Status] = {
    "passed": "passed",
    "success": "passed",
    "warning": "passed",
    "failed": "failed",
    "failure": "failed",
    "error": "failed",
    "cancelled": "failed",
    "skipped": "skipped",
    "ignored": "skipped",
    "notrunnable": "failed",
    "inconclusive": "skipped",
}
_XUNIT: dict[str, Status] = {"pass": "passed", "fail": "failed", "skip": "skipped", "notrun": "skipped"}
_TRX: dict[str, Status] = {
    "passed": "passed",
    "passedbutrunaborted": "passed",
    "completed": "passed",
    "warning": "passed",
    "failed": "failed",
    "error": "failed",
    "timeout": "failed",
    "aborted": "failed",
    "disconnected": "failed",
    "inprogress": "failed",
    "notexecuted": "skipped",
    "notrunnable": "skipped",
    "inconclusive": "skipped",
    "pending": "skipped",
}


_RUN_TIME = re.compile(r".* \d{4}-\d\d-\d\d \d\d:\d\d:\d\d")


def trx_run_name(name: str) -> str:
    """Returns a name for a TRX run that is the same in every build: `name`, or `TestRun` if `name` is empty or
    Microsoft's logger has composed it from the user, the machine and the time.
    """
    return "TestRun" if not name or _RUN_TIME.fullmatch(name) else name


def _status(word: str, known: dict[str, Status], name: str, builder: Builder) -> Status:
    status = known.get(word.strip().casefold())
    if status is None:
        # An unknown result must not count as passed.
        builder.notes.add("unknown_result", f"'{word[:40]}' of {name[:80]}")
        return "failed"
    return status


def nunit_case(node: Element, suite: str, origin: Origin, builder: Builder) -> list[Case]:
    """Returns a list with the one case of an NUnit element `<test-case>`. Reads the attributes `fullname`, `name`,
    `classname`, `result`, `label` and `duration`.
    """
    name, full = node.get("name"), node.get("fullname", "name")
    classname = node.get("classname") or full.removesuffix(name).rstrip(".")
    status = _status(node.get("result"), _NUNIT, full, builder)
    label = node.get("label")
    kind: ErrorKind = "" if status != "failed" else ("error" if label.casefold() in ("error", "invalid") else "failure")
    failure = node.find("failure")
    message = failure.text_at("message") if failure is not None else node.text_at("reason", "message")
    trace_node = failure.find("stack-trace") if failure is not None else None
    attachments = [
        child.text_at("filePath").strip() for holder in node.each("attachments") for child in holder.children
    ]
    # The full name identifies a case in NUnit: it includes the arguments.
    test = name if classname and full == f"{classname}.{name}" else full
    return [
        builder.case(
            name=test,
            status=status,
            suite=suite,
            classname=classname,
            duration_ms=milliseconds(node.get("duration", "time"), builder.notes),
            message=message.strip("\r\n") or (label if status != "passed" else ""),
            trace=builder.text(trace_node).strip("\r\n"),
            error_kind=kind,
            system_out=builder.text(node.find("output")),
            properties=property_pairs(node.find("properties")),
            attachments=[path for path in attachments if path],
            origin=origin,
        )
    ]


def xunit_case(node: Element, suite: str, origin: Origin, builder: Builder) -> list[Case]:
    """Returns a list with the one case of an xUnit element `<test>`. Reads the attributes `name`, `type`, `method`,
    `time` and `result`. Also accepts `<error>`, by which an assembly reports a failed clean-up.
    """
    failure = node.find("failure")
    classname = node.get("type")
    if node.name == "error":
        status: Status = "failed"
        kind: ErrorKind = "error"
        name = node.get("name") or node.get("type") or "error"
        classname = ""
    else:
        name = node.get("name", "method")
        status = _status(node.get("result"), _XUNIT, name, builder)
        kind = "failure" if status == "failed" else ""
    traits = [
        (trait.get("name"), trait.get("value")) for holder in node.each("traits") for trait in holder.each("trait")
    ]
    return [
        builder.case(
            name=name,
            status=status,
            suite=suite,
            classname=classname,
            file=node.get("source-file"),
            duration_ms=milliseconds(node.get("time"), builder.notes),
            message=(failure.text_at("message") if failure is not None else node.text_at("reason")).strip("\r\n"),
            trace=builder.text(failure.find("stack-trace")).strip("\r\n") if failure is not None else "",
            error_kind=kind,
            declared_type=failure.get("exception-type") if failure is not None else "",
            system_out=builder.text(node.find("output")),
            properties=traits,
            # Without the file: the name already contains the class. And a file that only some reports name must not
            # change the node id.
            origin=Origin(suite=origin.suite),
        )
    ]


def trx_cases(node: Element, suite: str, origin: Origin, builder: Builder) -> list[tuple[str, Case]]:
    """Returns pairs (test id, case) for a <UnitTestResult>. A data-driven test has an inner element for each row of its
    data. Such a test has one pair for each row, and one more for the outer element if this failed although no row did.
    """
    name = node.get("testName")
    status = _status(node.get("outcome"), _TRX, name, builder)
    rows = [row for inner in node.each("InnerResults") for row in inner.each("UnitTestResult")]
    pairs = [pair for row in rows for pair in trx_cases(row, suite, origin, builder)]
    if pairs and (status != "failed" or any(case.status == "failed" for _, case in pairs)):
        return pairs
    output = node.find("Output")
    info = output.find("ErrorInfo") if output is not None else None
    trace_node = info.find("StackTrace") if info is not None else None
    word = node.get("outcome").casefold()
    kind: ErrorKind = "" if status != "failed" else ("failure" if word == "failed" else "error")
    files = [item.get("path") for holder in node.each("ResultFiles") for item in holder.each("ResultFile")]
    case = builder.case(
        name=name,
        status=status,
        suite=suite,
        duration_ms=milliseconds(node.get("duration"), builder.notes),
        message=info.text_at("Message").strip("\r\n")
        if info is not None
        else (node.get("outcome") if status == "failed" else ""),
        trace=builder.text(trace_node).strip("\r\n"),
        error_kind=kind,
        system_out=builder.text(output.find("StdOut")) if output is not None else "",
        system_err=builder.text(output.find("StdErr")) if output is not None else "",
        attachments=[path for path in files if path],
        origin=origin,
    )
    return [*pairs, (node.get("testId"), case)]


class PendingCases:
    """Compressed cases of a TRX file. They wait for the definitions at the end of the file, since only these name the
    classes and the assemblies of the tests. The suite of a case is its assembly.

    100,000 passed cases take about 3 MB in this form, and their definitions about 10 MB.
    """

    _BLOCK = 256

    def __init__(self) -> None:
        self._blocks: list[bytes] = []
        self._open: list[tuple[str, Case]] = []
        self._size = 0
        self._definitions: dict[bytes, tuple[str, str]] = {}
        """Hash of a test id -> (class of the test, path of its assembly)."""
        self._pairs: dict[tuple[str, str], tuple[str, str]] = {}
        self._encoder = msgspec.msgpack.Encoder()
        self._decoder = msgspec.msgpack.Decoder(list[tuple[str, Case]])

    def add(self, test_id: str, case: Case) -> None:
        self._open.append((test_id, case))
        self._size += len(case.trace) + len(case.system_out) + len(case.system_err) + len(case.message)
        if len(self._open) >= self._BLOCK or self._size > 1_000_000:
            self._blocks.append(zstandard.compress(self._encoder.encode(self._open)))
            self._open = []
            self._size = 0

    def define(self, node: Element) -> None:
        """Remembers the class and the assembly of a test from its definition: <UnitTest id storage><TestMethod
        className codeBase name/></UnitTest>.
        """
        method = node.find("TestMethod")
        # Older versions append the assembly to the class: "Acme.FooTest, Acme.Tests, Version=1.0.0.0, ..."
        name = method.get("className").partition(",")[0].strip() if method is not None else ""
        if name:
            # Microsoft's logger writes `storage` in lower case.
            path = (method.get("codeBase") if method is not None else "") or node.get("storage")
            pair = name, path.replace("\\", "/")
            self._definitions[_key(node.get("id"))] = self._pairs.setdefault(pair, pair)

    def release(self, builder: Builder) -> Iterator[Case]:
        blocks, self._blocks = self._blocks, []
        suites = _name_suites({path for _, path in self._pairs}, builder.limits.name)
        for block in blocks:
            yield from self._named(self._decoder.decode(zstandard.decompress(block)), suites, builder)
        rest, self._open = self._open, []
        yield from self._named(rest, suites, builder)

    def _named(self, pairs: list[tuple[str, Case]], suites: Mapping[str, str], builder: Builder) -> Iterator[Case]:
        for test_id, case in pairs:
            classname, path = self._definitions.get(_key(test_id), ("", ""))
            if not classname:
                if "." not in case.name:
                    builder.notes.add("definitions_missing")
                yield msgspec.structs.replace(case, node_id=cut_name(case.name, builder.limits.name))
                continue
            classname = cut_name(classname, builder.limits.name)
            identity = cut_name(node_id(case.name, classname), builder.limits.name)
            suite = suites[path] or case.suite
            yield msgspec.structs.replace(case, node_id=identity, classname=classname, suite=suite)


def _name_suites(paths: Collection[str], limit: int) -> dict[str, str]:
    """Returns path -> name for the assemblies at `paths`. The name is the last part of the path, or the whole path if
    other paths end in the same part: with equal names, tests of two assemblies would count as attempts of one test.
    """
    last_parts = Counter(path.rpartition("/")[2] for path in paths)
    return {
        path: cut_name(path if last_parts[name] > 1 else name, limit)
        for path in paths
        for name in [path.rpartition("/")[2]]
    }


def _key(test_id: str) -> bytes:
    return hashlib.blake2b(test_id.encode("utf-8", "replace").lower(), digest_size=12).digest()
