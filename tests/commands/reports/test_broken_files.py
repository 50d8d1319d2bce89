"""Files that are not what they should be: every whole case is read, and a warning says what was lost."""

import pytest
from tests.commands.reports import samples
from tests.commands.reports.reading import parsed

from commands.reports.parser import Limits
from commands.reports.reading import read_chunks

SUITE = '<testsuite name="s"><testcase classname="C" name="a"/>{}<testcase classname="C" name="z"/></testsuite>'


def names(report: str | bytes) -> list[str]:
    return [case.name for case in parsed(report).cases]


@pytest.mark.parametrize(
    ("between", "kind"),
    [
        ('<testcase name="m"><failure>1 < 2 & 3</failure></testcase>', "bare_bracket"),
        (
            '<testcase name="m"><failure message="a \x1b[31mred\x1b[0m \x00"/></testcase>',
            "control_characters",
        ),
        ('<testcase name="m"><failure>&#0;&#27;[1m&#xD800;</failure></testcase>', "bad_references"),
        ('<testcase name="m"><failure>&nbsp;</failure></testcase>', "entities"),
        ('<testcase name="m"><failure message="List<String> x"/></testcase>', "malformed_tag"),
        ('<testcase name="m"><failure message=bare/></testcase>', "malformed_tag"),
        ('<testcase name="m"><failure message="lost></failure></testcase>', "malformed_tag"),
        ('<testcase name="m"><failure message="1" message="2"/></testcase>', "duplicate_attribute"),
        ('<testcase name="m"><failure>expected <foo> here</failure></testcase>', "unclosed_element"),
        ('<testcase name="m"><failure/>', "case_kept_unfinished"),
        ('<testcase name="m"><failure/></oops></testcase>', "stray_end_tag"),
        ('<testcase name="m"><failure/></testcase><?php', "bare_bracket"),
        ('<!DOCTYPE x><testcase name="m"><failure/></testcase>', "doctype"),
    ],
)
def test_a_fault_costs_no_other_case(between: str, kind: str) -> None:
    report = parsed(SUITE.format(between))
    assert [case.name for case in report.cases] == ["a", "m", "z"]
    assert report.statuses == ["passed", "failed", "passed"]
    assert kind in report.kinds


def test_an_unfinished_case_that_might_have_failed_is_dropped() -> None:
    report = parsed(SUITE.format('<testcase name="m">'))
    assert [case.name for case in report.cases] == ["a", "z"]
    (dropped,) = (warning for warning in report.summary.warnings if warning.kind == "case_dropped")
    assert "m" in dropped.message


def test_ansi_sequences_and_nul_are_dropped_whole() -> None:
    (case,) = parsed(
        '<testcase name="x"><failure message="\x1b[1;31mred\x1b[0m\x00&#27;[2mdim&#x1b;[0m"/></testcase>'
    ).cases
    assert case.message == "reddim"


def test_warnings_say_where() -> None:
    report = parsed(SUITE.format('\n\n<testcase name="m">\x07</testcase>\n'))
    (warning,) = report.summary.warnings
    assert (warning.kind, warning.line, warning.count) == ("control_characters", 3, 1)
    assert "line 3" in warning.message


def test_billion_laughs_and_external_entities_are_never_expanded() -> None:
    report = parsed(
        '<!DOCTYPE l [<!ENTITY a "lol"><!ENTITY b "&a;&a;"><!ENTITY x SYSTEM "file:///etc/passwd">]>'
        + SUITE.format('<testcase name="&b;"><failure message="&x;">&b;&x;</failure></testcase>')
    )
    assert {"doctype", "entities"} <= report.kinds
    assert (report.cases[1].name, report.cases[1].message, report.cases[1].trace) == ("&b;", "&x;", "&b;&x;")


@pytest.mark.parametrize(
    ("data", "kind"),
    [
        (b"", "empty"),
        (b"  \n ", "empty"),
        (b"no markup at all", "not_a_report"),
        (b"<!DOCTYPE html><html><body><p>502 Bad Gateway<br></body></html>", "not_a_report"),
        (b"\x00\xff\xfe\x01" * 100, "not_a_report"),
        (b'{"tests": 1}', "not_a_report"),
    ],
)
def test_what_is_no_report_has_no_cases(data: bytes, kind: str) -> None:
    report = parsed(data)
    assert report.cases == []
    assert kind in report.kinds


@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig", "utf-16", "utf-16-le", "utf-16-be", "utf-32"])
@pytest.mark.parametrize("size", [1, 7, 1 << 20])
def test_bytes_decide_the_encoding(encoding: str, size: int) -> None:
    data = samples.TESTHIDE.encode(encoding)
    report = parsed(data[at : at + size] for at in range(0, len(data), size))
    assert report.kinds == set()
    assert report.cases == parsed(samples.TESTHIDE).cases


def test_encodings_that_are_declared() -> None:
    text = '<?xml version="1.0" encoding="{}"?><testcase name="größe"/>'
    assert names(text.format("windows-1252").encode("cp1252")) == ["größe"]
    assert names(text.format("ISO-8859-15").encode("iso8859-15")) == ["größe"]
    assert names(text.format("us-ascii").encode()) == ["größe"]
    for wrong in ("utf-16", "no-such-thing", "zlib", "punycode", "unicode_escape"):
        report = parsed(text.format(wrong))
        assert [case.name for case in report.cases] == ["größe"]
        assert report.kinds == {"encoding"}
    report = parsed(text.format("utf-8").encode("cp1252"))
    assert [case.name for case in report.cases] == ["größe"]
    assert report.kinds == {"bad_bytes"}


def test_several_documents_in_one_file_are_read() -> None:
    report = parsed(samples.GO + samples.SUREFIRE)
    assert len(report.cases) == 10


def test_a_lost_beginning_costs_only_what_was_in_it() -> None:
    start = samples.TESTHIDE.index('<testcase classname="test_shop" name="test_known"')
    report = parsed(samples.TESTHIDE[start - 30 :])
    assert [case.name for case in report.cases] == [
        "test_known",
        "t/test_broken.py",
        "test_later",
        "test_xpass",
    ]


def test_long_texts_are_cut_and_say_so() -> None:
    limits = Limits(name=20, message=20, trace=40, output=30)
    report = parsed(
        f'<testcase name="{"n" * 21}" classname="C"><failure message="{"m" * 21}">START{"t" * 99}END</failure>'
        f"<system-out>FIRST{'o' * 99}LAST</system-out></testcase>",
        limits,
    )
    (case,) = report.cases
    assert (case.name[:4], len(case.name), case.message) == ("nnn~", 20, "m" * 20)
    assert len(case.trace) < 70
    assert case.trace.startswith("START")
    assert case.trace.endswith("END")
    assert case.system_out.startswith("FIRST")
    assert case.system_out.endswith("LAST")
    assert report.kinds == {"cut"}


def test_a_huge_attribute_is_cut_without_being_held() -> None:
    limits = Limits(tag=100_000, message=1000)
    chunk = b"x" * 50_000
    report = parsed(
        [
            b'<testsuite><testcase name="a"><failure message="',
            *[chunk] * 40,
            b'">trace</failure></testcase>',
            b'<testcase name="b"/>',
        ],
        limits,
    )
    assert report.statuses == ["failed", "passed"]
    assert report.cases[0].message == "x" * 1000
    assert report.cases[0].trace == "trace"
    assert "cut" in report.kinds


def test_a_tag_that_never_ends_is_still_a_failure() -> None:
    limits = Limits(tag=70_000)
    report = parsed(
        [b'<testsuite><testcase name="a"><failure', *[b" a='b'" * 30_000], b"</failure></testcase>"],
        limits,
    )
    assert report.statuses == ["failed"]


def test_depth_and_number_of_elements_are_bounded() -> None:
    deep = "<testsuite>" * 1000 + '<testcase name="a"/>' + "</testsuite>" * 1000
    assert "lost_results" in parsed(deep).kinds
    assert read_chunks([deep.encode()]).is_unreadable
    markup = f'<testcase name="a"><system-out>{"<b>" * 1000}</system-out></testcase>'.encode()
    assert {"too_deep", "lost_results"} & parsed(markup).kinds == {"too_deep"}
    limits = Limits(elements=10)
    report = parsed(
        f'<testcase name="a"><properties>{"<property/>" * 50}</properties><failure message="m"/></testcase>',
        limits,
    )
    assert report.statuses == ["failed"]
    assert "too_many_elements" in report.kinds


def test_many_faults_of_a_kind_are_one_warning() -> None:
    report = parsed(SUITE.format("&" * 5000))
    (warning,) = report.summary.warnings
    assert (warning.kind, warning.count) == ("bare_ampersand", 5000)
    suites = '<testsuite name="x" tests="2"/>' * 100
    assert len(parsed(suites).summary.warnings) == Limits().warnings_of_a_kind
