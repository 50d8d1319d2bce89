"""Builds a `Case` from what any report format contains: applies the limits, and computes node id, signature and
exception type.
"""

import re

from commands.reports.parser.case import Case, ErrorKind, Status
from commands.reports.parser.limits import Limits
from commands.reports.parser.names import cut_name, without_workspace
from commands.reports.parser.node_ids import Origin, node_id
from commands.reports.parser.notes import Notes
from commands.reports.parser.signature import signature
from commands.reports.parser.tree import CUT, Element
from commands.reports.parser.values import exception_type, first_line

# The form that Jenkins' JUnit attachments plugin defined, and that Playwright and others use.
_ATTACHED = re.compile(r"\[\[ATTACHMENT\|([^\]\n|]{1,4096})\]\]")
_ATTACHMENTS = 256
NO_NAME = "(no name)"


class Builder:
    """Builds the cases of one report."""

    def __init__(self, limits: Limits, notes: Notes) -> None:
        self.limits = limits
        self.notes = notes

    def case(
        self,
        *,
        name: str,
        status: Status,
        suite: str,
        classname: str = "",
        file: str = "",
        line: int | None = None,
        duration_ms: int = 0,
        message: str = "",
        trace: str = "",
        error_kind: ErrorKind = "",
        declared_type: str = "",
        system_out: str = "",
        system_err: str = "",
        fail_id: str = "",
        resolution: str = "",
        known_issue: bool = False,
        properties: list[tuple[str, str]] | None = None,
        attachments: list[str] | None = None,
        is_folded: bool = False,
        is_suite: bool = False,
        origin: Origin,
    ) -> Case:
        limit = self.limits.name
        name = without_workspace(name)
        if len(name) + len(classname) + len(file) + len(suite) > limit:
            name, classname = self.cut_name(name, "a name"), self.cut_name(classname, "a class name")
            file, suite = self.cut_name(file, "a file name"), self.cut_name(suite, "a suite name")
        reported = _Reported(properties, attachments)
        if not name:
            self.notes.add("missing_name", count=1)
            name = reported.nodeid.rpartition("::")[2] or NO_NAME
        if "[[ATTACHMENT|" in system_out:
            reported.attachments += _ATTACHED.findall(system_out)[:_ATTACHMENTS]
        trace = self.cut_within(trace, self.limits.trace, "the trace of a case")
        # Each element alone is within the limit, but may exceed it together with the elements inside of it.
        system_out = self.cut_within(system_out, self.limits.output, "the output of a case")
        system_err = self.cut_within(system_err, self.limits.output, "the output of a case")
        if "\r" in message or "\r" in trace:  # written as a reference, &#13;
            message, trace = message.replace("\r\n", "\n"), trace.replace("\r\n", "\n")
        exception = digest = ""
        if status != "passed":
            message = self.cut(message or first_line(trace, limit), self.limits.message, "a message")
        if status == "failed":
            if not trace and "\n" in message:
                trace = message  # some reporters write the whole traceback as the message
            exception = exception_type(declared_type, message, trace)
            digest = signature(exception, message, trace)
        return Case(
            node_id=self.cut_name(node_id(name, classname, file, reported.nodeid, origin), "a node id"),
            name=name,
            status=status,
            suite=suite,
            classname=classname,
            file=file,
            line=line,
            duration_ms=duration_ms,
            message=message,
            trace=trace,
            error_kind=error_kind,
            exception_type=exception,
            system_out=system_out,
            system_err=system_err,
            fail_id=self.cut(fail_id, limit, "a fail_id"),
            test_resolution=self.cut(resolution, limit, "a resolution"),
            known_issue=known_issue,
            runs_once=origin.runs_once,
            is_folded=is_folded,
            is_suite=is_suite,
            signature=digest,
            docstr=reported.docstr,
            jira=reported.jira,
            info=reported.info,
            attachments=tuple(self.cut(item, limit, "an attachment") for item in reported.attachments),
            properties=tuple(reported.others),
        )

    def cut_name(self, name: str, what: str) -> str:
        if len(name) > self.limits.name:
            self.notes.add("cut", what)
        return cut_name(name, self.limits.name)

    def cut(self, text: str, limit: int, what: str) -> str:
        if len(text) <= limit:
            return text
        self.notes.add("cut", what)
        return text[:limit]

    def cut_within(self, text: str, limit: int, what: str) -> str:
        """Returns the text. If it is longer than `limit`, cuts out its middle, since both ends of a stack trace matter.
        `what` names the text in the report's warning.
        """
        if len(text) <= limit + len(CUT):  # the text may have been cut before
            return text
        self.notes.add("cut", what)
        half = limit // 2
        return f"{text[:half]}{CUT}{text[-half:]}"

    def text(self, node: Element | None) -> str:
        """Returns the text of an element. Adds a warning to the report if the text was cut when it was read."""
        if node is None:
            return ""
        if node.cut:
            self.notes.add("cut", f"the text of <{node.name}>")
        return node.all_text()


class _Reported:
    """Properties of a case. A property for which `Case` has a field is an attribute here; `others` has the rest."""

    def __init__(self, properties: list[tuple[str, str]] | None, attachments: list[str] | None) -> None:
        self.nodeid = self.docstr = self.jira = self.info = ""
        self.attachments = list(attachments or ())
        self.others: list[tuple[str, str]] = []
        for name, value in properties or ():
            if name == "attachment":
                if value and len(self.attachments) < _ATTACHMENTS:
                    self.attachments.append(value)
            elif name == "nodeid":
                self.nodeid = value
            elif name == "docstr":
                self.docstr = value
            elif name == "jira":
                self.jira = value
            elif name == "info":
                # A reporter may write several of them; the field contains all, one in each line.
                self.info = f"{self.info}\n{value}" if self.info else value
            else:
                self.others.append((name, value))


def property_pairs(node: Element | None) -> list[tuple[str, str]]:
    """Returns the (name, value) pairs of a <properties> element. A value may be in the attribute `value` or in the text
    of a <property>.
    """
    if node is None:
        return []
    return [property_pair(child) for child in node.children if child.name == "property"]


def property_pair(node: Element) -> tuple[str, str]:
    value = node.attributes.get("value")
    return node.get("name"), node.all_text().strip() if value is None else value
