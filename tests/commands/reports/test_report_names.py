"""Which files the agent sends as reports, and which of them lack results."""

import gzip
from pathlib import Path

import pytest

from agent.build import report_files
from commands.reports.reading import read_report
from commands.reports.recording import IncomingReport
from commands.reports.report_queue import ReportSender
from domain.results import FAILED


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
        ("r.xml", b"<test-results failures='1'/>", True),
        ("r.xml", b"<test-results failures='0'/>", False),
        ("r.xml", b"<testcase name='a'/>", False),
        ("r.xml", b"<assembly name='a'/>", False),
        ("r.xml", b"<doc><assembly><name>a</name></assembly><members/></doc>", False),
        ("r.xml", b"<mapper><resultMap><collection property='a'/></resultMap></mapper>", False),
        ("r.xml", b"<run><assembly><collection><test result='Fail'/></collection></assembly></run>", False),
        ("r.xml", b"<plan><testcase name='a'><failure/></testcase></plan>", False),
        ("r.xml", b"<testsuites><suite><test result='failure'/></suite></testsuites>", True),
        ("r.xml", b"<TestCase name='a'><TestFunction name='b'/></TestCase>", True),
        ("r.xml", b"<TestCase name='a'><Step/></TestCase>", False),
        ("r.xml", b"<e:events xmlns:e='u'><e:started id='1'/></e:events>", True),
        ("r.xml", b"<events/>", False),
        ("r.xml", b"<testResults version='1.2'><httpSample s='false'/></testResults>", True),
        ("r.xml", b"<?xml version='1.0'?><!-- cut", True),
        ("r.xml", b"<testsui", True),
    ],
)
def test_xml_of_another_kind_lacks_results_under_a_name_of_reports(
    tmp_path: Path, path: str, content: bytes, is_unreadable: bool
) -> None:
    file = tmp_path / "sent"
    file.write_bytes(content)
    report = IncomingReport(1, path, file, b"", ReportSender("user:1")).mark(read_report(file))
    assert report.is_unreadable == is_unreadable
    with file.open("rb") as opened:
        assert report_files.is_report(path, opened) == (report.is_report or report.is_unreadable)


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "gzip"])
@pytest.mark.parametrize(
    "prolog",
    [
        pytest.param(f"<!-- {'A license. <a>' * 20_000} -->", id="comment"),
        pytest.param(f"<?xml-stylesheet {'x' * 50_000}?>", id="instruction"),
        pytest.param(f"<!DOCTYPE t [{'<!ELEMENT t (#PCDATA)> <!-- a > ]> -->' * 5_000}]>", id="document type"),
        pytest.param(f"""<!DOCTYPE t SYSTEM "{"a>" * 20_000}" [<!ENTITY a '<b>'>]> <?a <b>?>""", id="quotes"),
        pytest.param(" \n" * 50_000, id="space"),
    ],
)
def test_a_report_is_known_by_its_root_however_late_it_comes(tmp_path: Path, prolog: str, encoding: str) -> None:
    text = f"{prolog}<testsuite><testcase name='a'><failure/></testcase></testsuite>"
    content = gzip.compress(text.encode(), mtime=0) if encoding == "gzip" else text.encode(encoding)
    file = tmp_path / "sent"
    file.write_bytes(content)
    with file.open("rb") as opened:
        assert report_files.is_report("r.xml", opened)
    assert read_report(file).statuses == bytes([FAILED])


def test_elements_in_a_comment_make_no_report(tmp_path: Path) -> None:
    file = tmp_path / "sent"
    file.write_bytes(b"<?xml version='1.0'?><!-- <testsuite> --><coverage><!-- " + b"a" * 100_000 + b" --></coverage>")
    with file.open("rb") as opened:
        assert not report_files.is_report("r.xml", opened)
    assert not read_report(file).is_report


def test_a_file_without_an_element_is_no_xml_of_another_kind(tmp_path: Path) -> None:
    file = tmp_path / "sent"
    file.write_bytes(b"<!-- " + b"a" * (17 << 20))
    with file.open("rb") as opened:
        assert report_files.is_report("r.xml", opened)
