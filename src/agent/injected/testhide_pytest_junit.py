"""Adds to pytest's JUnit file what pytest leaves out (pytest 6 or newer, Python 3.8 or newer). PYTEST_DONT_REWRITE

- A test that pytest-rerunfailures repeats has a `<flakyFailure>` or `<flakyError>` for each earlier attempt, as Maven's
  surefire writes them. The outcome of the test case is that of the last attempt.
- Each subtest is a case of its own, `test_file.py::test::[message] (i=1)`.
- With xdist's `--dist each`, a case has the property `xdist_worker`, so that the results of several workers are not
  taken for attempts.
- A collection error has the property `nodeid`. A test marked as xfail has the property `outcome`: `xfailed` or
  `xpassed`.
- The file of a run that was cut off (`os._exit`, a signal) lacks its end tag, so that no reader takes it for complete.
- The suite's property `testhide_explained_exit_code` is pytest's exit code if the results explain this code: 0, or 1
  if only failed tests of a complete run caused it. Otherwise the property is `none`, for example after a coverage gate
  failed, after an internal error or with `--maxfail`.
- The suite's property `testhide_ignored_failures` is the number of failures that do not fail the run, and
  `testhide_tests_not_run` the number of tests that did not run because the run ended early (see
  `testhide_pytest_outcome`).
- If a build runs pytest twice with the same file, the second run adds its suite to that of the first run.
"""

from __future__ import annotations

import os
from contextlib import suppress
from copy import copy
from typing import Any
from xml.etree import ElementTree

import pytest
from _pytest import junitxml

_EXPLAINED = "testhide_explained_exit_code"
_IGNORED, _NOT_RUN, _BUILD = "testhide_ignored_failures", "testhide_tests_not_run", "testhide_build"
_TESTS_FAILED = 1  # pytest's exit code
_END = b"</testsuites>"
_CUT = b"<!-- this run was cut off -->"
"""Comment that follows the results of a run that was cut off. Later runs that add their results to the file then leave
out its end tag, so that no reader takes the file for complete.
"""


def install(session: pytest.Session, outcome: Any) -> bool:
    """Replace the plugin that writes the JUnit file by a `CompleteLog` with the same state, and register `outcome`, a
    `testhide_pytest_outcome.RunOutcome`. Return False without doing anything if this run writes no such file.
    """
    config = session.config
    stash: Any = config.stash if hasattr(config, "stash") else config._store
    replaced = stash.get(junitxml.xml_key, None)
    if type(replaced) is not junitxml.LogXML:
        return False
    log = CompleteLog.__new__(CompleteLog)
    log.__dict__ = replaced.__dict__
    log.rerun = set()
    log.subtests = {}
    log.runs_each = getattr(config.option, "dist", "no") == "each"
    log.outcome = outcome
    config.pluginmanager.register(log.outcome)
    config.pluginmanager.unregister(replaced)
    config.pluginmanager.register(log, "testhide-junit")
    stash[junitxml.xml_key] = log
    log.begin_file()
    return True


class CompleteLog(junitxml.LogXML):
    rerun: set[tuple[str, object]]
    """Node id and xdist worker of each test that failed and will be repeated."""
    subtests: dict[tuple[str, object], list[str]]
    """Descriptions of the subtests in the current attempt of each test, by node id and xdist worker."""
    runs_each: bool
    """Whether each test runs on every worker (`--dist each`)."""
    outcome: Any
    """A `testhide_pytest_outcome.RunOutcome`."""
    earlier: int
    """Number of bytes that earlier runs of pytest in this build wrote into the file."""
    build: str

    def begin_file(self) -> None:
        """Write the beginning of the file. The end is missing until pytest replaces the file at the end of the run."""
        self.earlier = 0
        self.build = os.environ.get("TESTHIDE_BUILD_ID", "")
        with suppress(OSError):  # pytest reports the same error at its end
            os.makedirs(os.path.dirname(os.path.abspath(self.logfile)), exist_ok=True)
            earlier = self._read_earlier()
            self.earlier = len(earlier)
            begun = f'<testsuite name="pytest"><properties>{self._build_property()}/></properties>'
            with open(self.logfile, "wb") as file:
                file.write((earlier or b"<testsuites>") + begun.encode())

    def _build_property(self) -> str:
        return f'<property name="{_BUILD}" value="{self.build}"'

    def _read_earlier(self) -> bytes:
        """Return what earlier runs of pytest in this build wrote into the file, without the end tag. If one of them was
        cut off, add the comment that says so. Return no bytes if no earlier run of pytest wrote the file.
        """
        try:
            with open(self.logfile, "rb") as file:
                content = file.read()
        except FileNotFoundError:
            return b""
        if not self.build.isdigit() or self._build_property().encode() not in content:
            return b""
        return content[: -len(_END)] if content.endswith(_END) else content + _CUT

    def _put_earlier_first(self, earlier: bytes) -> None:
        with open(self.logfile, "rb") as file:
            content = file.read()
        end = len(content) - len(_END) if earlier.endswith(_CUT) else len(content)
        with open(self.logfile, "wb") as file:
            file.write(earlier + content[content.index(b"<testsuite ") : end])

    @pytest.hookimpl(trylast=True)  # pytest 9 fails a test with a failed subtest only when it prints the outcome
    def pytest_runtest_logreport(self, report: Any) -> None:
        is_written = False
        with suppress(Exception):
            is_written = self._write(report)
        if not is_written:
            super().pytest_runtest_logreport(report)

    def pytest_collectreport(self, report: Any) -> None:
        super().pytest_collectreport(report)
        with suppress(Exception):
            if not report.passed:
                self.node_reporter(report).add_property("nodeid", report.nodeid)

    @pytest.hookimpl(trylast=True)
    def pytest_sessionfinish(self, session: pytest.Session) -> None:  # type: ignore[override]
        with suppress(Exception):
            code = int(session.exitstatus)
            is_complete = not session.shouldfail and not session.shouldstop and not self.outcome.not_run
            are_failed_tests = code == _TESTS_FAILED and session.testsfailed <= self.outcome.failures
            is_explained = is_complete and (code == 0 or are_failed_tests)
            self.add_global_property(_EXPLAINED, str(code) if is_explained else "none")
            self.add_global_property(_BUILD, self.build)
            for name, number in ((_IGNORED, self.outcome.ignored), (_NOT_RUN, self.outcome.not_run)):
                if number:
                    self.add_global_property(name, str(number))
        earlier = b""
        with suppress(OSError), open(self.logfile, "rb") as file:
            earlier = file.read(self.earlier)
        super().pytest_sessionfinish()
        with suppress(Exception):
            if earlier:
                self._put_earlier_first(earlier)

    def _write(self, report: Any) -> bool:
        """Write what pytest's own method leaves out of a report. Return False if pytest's method still has to write the
        report.
        """
        key = report.nodeid, getattr(report, "node", None)
        if report.when == "setup":
            if key not in self.subtests:
                self._add_worker(report, self.node_reporter(report))
            self.rerun.discard(key)
            self.subtests[key] = []
        if hasattr(report, "context"):
            self._add_subtest(report, self.subtests.setdefault(key, []))
            return True
        # The rest of an attempt that was written already. A crash ("???") is another attempt.
        if key in self.rerun and report.when != "???":
            return True
        if report.outcome == "rerun":
            self.rerun.add(key)
            self._add_attempt(report)
            return True
        if hasattr(report, "wasxfail") and report.outcome != "failed":
            outcome = "xfailed" if report.skipped else "xpassed"
            self.node_reporter(report).add_property("outcome", outcome)
        return False

    def _add_worker(self, report: Any, case: Any) -> None:
        if self.runs_each:
            case.add_property("xdist_worker", report.worker_id)

    def _add_attempt(self, report: Any) -> None:
        case: Any = self._opentestcase(report)
        if report.when == "teardown":
            self.stats["passed"] -= 1  # counted after the call phase, but only the next attempt is to count
        text = str(report.longrepr or "a subtest failed")
        crash = getattr(report.longrepr, "reprcrash", None)
        attributes = {
            "message": junitxml.bin_xml_escape(crash.message if crash else text),
            "time": f"{case.duration + report.duration:.3f}",
        }
        case.append(_element("flakyFailure" if report.when == "call" else "flakyError", text, attributes))
        case.duration = 0.0

    def _add_subtest(self, report: Any, earlier: list[str]) -> None:
        suffix = f"::{self.outcome.describe_subtest(report)}"
        earlier.append(suffix)
        if earlier.count(suffix) > 1:  # not a second attempt, whose success would hide the first one's failure
            suffix += f" #{earlier.count(suffix)}"
        subtest = copy(report)
        subtest.node = object()  # a reporter of its own: reporters are kept by node id and worker
        subtest.user_properties = []
        case: Any = self._opentestcase(subtest)
        append = {"passed": case.append_pass, "failed": case.append_failure}.get(report.outcome, case.append_skipped)
        append(subtest)
        case.duration = report.duration
        name = junitxml.mangle_test_address(report.nodeid)[-1]
        case.attrs["name"] = junitxml.bin_xml_escape(name + suffix)
        case.add_property("nodeid", report.nodeid + suffix)
        self._add_worker(report, case)
        self.finalize(subtest)


def _element(tag: str, text: str, attributes: dict[str, str]) -> Any:
    escaped = junitxml.bin_xml_escape(text)
    py_xml: Any = getattr(junitxml, "Junit", None)  # of pytest 6.0 and 6.1
    if py_xml is not None:
        return getattr(py_xml, tag)(escaped, **attributes)
    element = ElementTree.Element(tag, attributes)
    element.text = escaped
    return element
