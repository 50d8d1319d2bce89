import time
from datetime import datetime

import pytest
from hypothesis import given
from hypothesis import strategies as st

from commands.reports.parser.signature import find_functions, frames, signature

WORDS = st.text(st.sampled_from("abcdefgh "), min_size=1, max_size=20)
MOMENTS = st.datetimes(min_value=datetime(1000, 1, 1))
KINDS = (
    st.integers(0, 2**63).map(hex),
    st.uuids().map(str),
    MOMENTS.map(lambda at: at.isoformat()),
    MOMENTS.map(lambda at: at.strftime("%Y-%m-%d %H:%M:%S,123")),
    st.integers(0, 10**12).map(str),
    st.floats(0, 10**6).map(lambda number: f"{number:.3f}"),
    st.integers(1024, 65535).map(lambda port: f"127.0.0.1:{port}"),
    st.from_regex(r"/tmp/pytest-of-[a-z]{1,5}/pytest-[0-9]{1,4}/[a-z0-9]{1,8}", fullmatch=True),
    st.from_regex(r"/home/[a-z]{1,6}/work/[0-9]{1,4}/x\.log", fullmatch=True),
    st.from_regex(r"[0-9]{1,3}(\.[0-9]{1,3})? ?(ms|s|seconds)", fullmatch=True),
)
PAIRS = st.sampled_from(KINDS).flatmap(lambda kind: st.tuples(kind, kind))


@given(WORDS, PAIRS, WORDS)
def test_volatile_parts_do_not_matter(before: str, pair: tuple[str, str], after: str) -> None:
    one, two = pair
    assert signature("E", f"{before}: {one} {after}") == signature("E", f"{before}: {two} {after}")
    assert signature("E", f"{before}: {one}", f"at {one}") == signature("E", f"{before}: {two}", f"at {two}")


@pytest.mark.parametrize(
    ("one", "two"),
    [
        ("<Foo object at 0x7f00aa10>", "<Foo object at 0x55d0>"),
        ("id 123e4567-e89b-12d3-a456-426614174000 gone", "id 00000000-e89b-12d3-a456-4266141740ff gone"),
        ("at 2026-03-01T10:00:00.123Z", "at 2025-12-31T23:59:59+01:00"),
        ("timed out after 30.01s", "timed out after 29s"),
        ("port 8080 is taken", "port 55123 is taken"),
        ("connect to 10.0.0.7:5432 failed", "connect to 192.168.1.1:6543 failed"),
        ("no file /tmp/tmpab12cd/x7f.txt", "no file /tmp/tmpzz9/qq.txt"),
        ("\x1b[31mred\x1b[0m", "red"),
        ("Foo@1b6d3586 differs", "Foo@6d06d69c differs"),
        ("got 'a'", 'got "a"'),
        (
            "commit 9fceb02d0ae598e95dc970b74767f19372d61af8",
            "commit e83c5163316f89bfbde7d9ab23ca2e25604af290",
        ),
        ("in /home/ci/agent-1/work/src/app.py", "in /home/me/src/app.py"),
    ],
)
def test_known_volatile_parts(one: str, two: str) -> None:
    assert signature("E", one) == signature("E", two)


@given(
    WORDS,
    st.sampled_from(["ValueError", "KeyError", "a.B"]),
    st.sampled_from(["OSError", "TypeError", "a.C"]),
)
def test_other_exception_types_are_other_failures(message: str, one: str, two: str) -> None:
    assert signature(one, message) != signature(two, message)


@pytest.mark.parametrize(
    ("one", "two"),
    [("no such user", "no such group"), ("in /tmp/a/app.py", "in /tmp/a/db.py"), ("facade", "decade")],
)
def test_other_messages_are_other_failures(one: str, two: str) -> None:
    assert signature("E", one) != signature("E", two)


PYTHON = """Traceback (most recent call last):
  File "/srv/t/test_shop.py", line {}, in test_total
    check(3, 4)
  File "/srv/shop.py", line {}, in check
    requests.get()
  File "/usr/lib/python3.11/site-packages/requests/api.py", line 73, in get
    raise X
"""
JAVA = """java.lang.AssertionError
	at org.junit.Assert.fail(Assert.java:89)
	at com.acme.Foo.check(Foo.java:{})
	at com.acme.FooTest.lambda$bar$0(FooTest.java:{})
	at java.base/java.lang.reflect.Method.invoke(Method.java:580)
"""
NET = """   at Xunit.Assert.True(Boolean condition)
   at Acme.Calculator.Div(Int32 a, Int32 b) in C:\\ci\\Calculator.cs:line {}
   at Acme.Tests.FooTests.Breaks() in C:\\ci\\FooTests.cs:line {}
"""
JAVASCRIPT = """Error: no
    at check (src/sum.js:{}:21)
    at Object.<anonymous> (test/sum.test.js:{}:5)
    at new Promise (<anonymous>)
    at process (node:internal/process/task_queues:97:5)
"""


@pytest.mark.parametrize(
    ("trace", "names"),
    [
        (PYTHON, ["check", "test_total"]),
        (JAVA, ["com.acme.Foo.check", "com.acme.FooTest.lambda$bar$"]),
        (NET, ["Acme.Calculator.Div", "Acme.Tests.FooTests.Breaks"]),
        (JAVASCRIPT, ["check", "Object.<anonymous>"]),
    ],
)
def test_own_frames_count_without_their_lines(trace: str, names: list[str]) -> None:
    assert frames(trace.format(1, 2)) == names
    assert signature("E", "m", trace.format(1, 2)) == signature("E", "m", trace.format(30, 40))
    assert signature("E", "m", trace.format(1, 2)) != signature("E", "m", "")


def test_signatures_leave_out_the_numbers_of_names() -> None:
    trace = '  File "/src/test_x.py", line 1, in test_{}\n'
    assert frames(trace.format(1)) == ["test_"]
    assert signature("E", "m", trace.format(1)) == signature("E", "m", trace.format(2))
    assert [find_functions(trace.format(number)) for number in (1, 2)] == [["test_1"], ["test_2"]]


@pytest.mark.parametrize(
    "text",
    [
        "0" * 10**6,
        "a" * 10**6,
        "/tmp/" * 10**5,
        "1.1.1." * 10**5,
        " at " * 10**5,
        "\n\t at a(" * 10**5,
        "aA0-" * 10**5,
    ],
)
def test_time_is_bounded(text: str) -> None:
    start = time.process_time()
    signature("E", text, text)
    assert time.process_time() - start < 0.5
