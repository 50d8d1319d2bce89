"""Two tests whose names a limit, a forbidden character or a join would make equal are no attempts of one test. Of the
attempts of one test, a skip is no success.
"""

import pytest

from commands.reports.reading import read_chunks
from domain.results import FAILED, PASSED, SKIPPED

LONG = "n" * 4096
LONGER = "n" * 70_000


@pytest.mark.parametrize(
    ("failed", "passed"),
    [
        pytest.param(f'name="{LONG}a"', f'name="{LONG}b"', id="long names"),
        pytest.param(f'name="{LONGER}a"', f'name="{LONGER}b"', id="names beyond the limit of an attribute"),
        pytest.param(f'classname="{LONG}a" name="x"', f'classname="{LONG}b" name="x"', id="long class names"),
        pytest.param(f'classname="{LONG[9:]}a" name="bx"', f'classname="{LONG[9:]}a" name="by"', id="long node ids"),
        pytest.param('name="b\1"', 'name="b"', id="a forbidden character"),
        pytest.param('name="b\1"', 'name="b\2"', id="two forbidden characters"),
        pytest.param('name="b&#1;"', 'name="b"', id="a reference to a forbidden character"),
        pytest.param("", "", id="no names"),
        pytest.param('classname="a.b" name="c"', 'classname="a" name="b.c"', id="class and name"),
    ],
)
def test_two_tests_are_two_results(failed: str, passed: str) -> None:
    suite = f'<testsuite name="s"><testcase {failed}><failure/></testcase><testcase {passed}/></testsuite>'
    read = read_chunks([suite.encode()])
    assert (list(read.statuses), list(read.finals)) == ([FAILED, PASSED], [1, 1])
    assert read.explained_exit_code is None
    assert len(max(read.node_ids, key=len)) <= 4096


def test_output_has_no_forbidden_characters() -> None:
    case = '<testcase name="b\1"><failure message="m\1&#2;">t\1</failure><system-out>o\1</system-out></testcase>'
    (text,) = read_chunks([f'<testsuite name="s">{case}</testsuite>'.encode()]).texts
    assert (text.message, text.trace, text.system_out) == ("m", "t", "o")


@pytest.mark.parametrize(
    ("cases", "finals", "flaky"),
    [
        (("<failure/>", "<skipped/>", "<skipped/>"), [1, 0, 0], [0, 0, 0]),
        (("<failure/>", "<skipped/>", ""), [0, 0, 1], [0, 0, 1]),
        (("", "<skipped/>"), [0, 1], [0, 0]),
        (("<skipped/>", "<failure/>"), [0, 1], [0, 0]),
    ],
)
def test_a_skip_after_a_failure_is_no_success(cases: tuple[str, ...], finals: list[int], flaky: list[int]) -> None:
    suite = "".join(f'<testcase name="a">{case}</testcase>' for case in cases)
    read = read_chunks([f'<testsuite name="s">{suite}</testsuite>'.encode()])
    assert (list(read.finals), list(read.flaky)) == (finals, flaky)
    assert list(read.attempts) == list(range(1, len(cases) + 1))
    assert read.statuses.count(SKIPPED) == cases.count("<skipped/>")
