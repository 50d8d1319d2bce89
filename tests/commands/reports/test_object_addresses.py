"""Names of tests that contain the address of an object, which differs from one process to the next."""

from xml.sax.saxutils import quoteattr

import pytest

from commands.reports.object_addresses import REPORTED_NAME, mask_addresses
from commands.reports.reading import ReportRead, read_chunks
from domain.results import FAILED, PASSED


@pytest.mark.parametrize(
    ("reported", "masked"),
    [
        ("t.py::test_x[<function f at 0x7f3a5c1d2e50>]", "t.py::test_x[<function f at 0x...>]"),
        ("t.py::test_x::(a=<T object at 0x7f3a5c1d2e50>, b=3)", "t.py::test_x::(a=<T object at 0x...>, b=3)"),
        ("t.py::test_x[<bound method T.f of <T object at 0x10f5b2d90>>]", None),
        ("t.py::test_x[<MagicMock name='f' id='140234567890123'>]", "t.py::test_x[<MagicMock name='f' id='...'>]"),
        ("com.acme.CartTest.adds[com.acme.Cart@1b28cdfa]", "com.acme.CartTest.adds[com.acme.Cart@...]"),
    ],
)
def test_addresses_are_left_out(reported: str, masked: str | None) -> None:
    found = mask_addresses(reported)
    assert found == (masked or "t.py::test_x[<bound method T.f of <T object at 0x...>>]")
    assert mask_addresses(found) == found


@pytest.mark.parametrize(
    "name",
    [
        "t.py::test_flags[0xdeadbeef]",
        "t.py::test_reads at 0xdeadbeef",
        "t.py::test_x[<page at 0x10>]",
        "t.py::test_mail[ann@1234567.example]",
        "t.py::test_mail[ann@facade]",
        "t.py::test_id[id='7']",
    ],
)
def test_other_numbers_stay(name: str) -> None:
    assert mask_addresses(name) == name


def read(*names: str, failed: str = "") -> ReportRead:
    cases = (f"<testcase name={quoteattr(name)}>{'<failure/>' * (name == failed)}</testcase>" for name in names)
    return read_chunks([f'<testsuite name="s">{"".join(cases)}</testsuite>'.encode()])


def test_each_build_has_the_same_names() -> None:
    first = read("x[<f at 0x7f0000001000>]", "x[<f at 0x7f0000002000>]", "x[<g at 0x7f0000003000>]", "y")
    second = read("x[<f at 0x560000009000>]", "x[<f at 0x560000008000>]", "x[<g at 0x560000007000>]", "y")
    assert first.node_ids == second.node_ids
    assert [name.rpartition(" > ")[2] for name in first.node_ids] == [
        "x[<f at 0x...>]",
        "x[<f at 0x...>] #2",
        "x[<g at 0x...>]",
        "y",
    ]


def test_no_result_is_lost() -> None:
    failed = "x[<f at 0x7f0000001000>]"
    found = read(failed, "x[<f at 0x7f0000001000>] #2", "x[<f at 0x7f0000002000>]", failed=failed)
    assert len(set(found.node_ids)) == 3
    assert (list(found.statuses), list(found.finals)) == ([FAILED, PASSED, PASSED], [1, 1, 1])
    (text,) = [text for text in found.texts if text.properties]
    assert (text.row, dict(text.properties)[REPORTED_NAME].rpartition(" > ")[2]) == (0, failed)


def test_attempts_of_a_test_stay_together() -> None:
    failed = "x[<f at 0x7f0000001000>]"
    found = read_chunks(
        [
            f'<testsuite name="s"><testcase name={quoteattr(failed)}><failure/></testcase>'
            f"<testcase name={quoteattr(failed)}/></testsuite>".encode()
        ]
    )
    assert (len(found.node_ids), list(found.attempts), list(found.flaky)) == (1, [1, 2], [0, 1])
