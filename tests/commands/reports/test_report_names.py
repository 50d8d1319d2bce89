"""Which files lack results by their names."""

import gzip
from pathlib import Path

import pytest

from commands.reports.reading import read_report
from commands.reports.recording import IncomingReport
from commands.reports.report_queue import ReportSender


@pytest.mark.parametrize(
    ("path", "content", "is_unreadable"),
    [
        ("r/junit.xml", b"<coverage/>", True),
        ("junit-2.xml", b"<project/>", True),
        ("TEST-a.xml.gz", gzip.compress(b"<coverage/>", mtime=0), True),
        ("a.trx", b"Segfault", True),
        ("report.xml", b"<coverage/>", False),
        ("report.xml", b"\0<a\1\2", True),
        ("coverage.xml", b"<?xml version='1.0'?><coverage/>", False),
        ("pom.xml", b"<project/>", False),
        ("r.xml", b"Segfault", True),
        ("testng-results.xml", b"<testng-results failed='1'><suite/></testng-results>", True),
        ("output.xml", b"<robot generator='Robot 7.1 (Python 3.12)'><suite/></robot>", True),
        ("robot.xml", b"<robot name='arm'><link/></robot>", False),
        ("Test.xml", b"<Site Name='a'><Testing><Test Status='failed'/></Testing></Site>", True),
        ("Build.xml", b"<Site Name='a'><Build/></Site>", False),
        ("r.xml", b"<TestRun><FailedTests><FailedTest id='1'/></FailedTests></TestRun>", True),
        ("r.xml", b"<TestRun><Results/></TestRun>", False),
        ("junit.xml", b"<testsuite/>", False),
    ],
)
def test_xml_of_another_kind_lacks_results_under_a_name_of_reports(
    tmp_path: Path, path: str, content: bytes, is_unreadable: bool
) -> None:
    file = tmp_path / "sent"
    file.write_bytes(content)
    assert (
        IncomingReport(1, path, file, b"", ReportSender("user:1")).mark(read_report(file)).is_unreadable
        == is_unreadable
    )
