"""What a table cannot hold is told before it is sent: the same as PostgreSQL would say."""

import math
from datetime import UTC, datetime
from typing import Any

import msgspec
import psycopg
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from projections.engine import row_validation, statements
from projections.engine.model import Int, Row, SmallInt, Table
from projections.engine.row_validation import InvalidValue
from tests.projections.toys import KindRow

GOOD = KindRow(1, "word", b"\0", None, True, 0.5, None, ["a"], [1], {"a": 1}, None, 3)


class NamedRow(Row, frozen=True):
    table = Table("named", 1, key=("name",), indexes=("(lower(title))",))
    name: str
    title: str


@pytest.mark.parametrize(
    ("changes", "message"),
    [
        ({"id": 2**63}, "kinds_v1.id cannot hold a number outside of bigint"),
        ({"small": -(2**15) - 1}, "kinds_v1.small cannot hold a number outside of smallint"),
        ({"word": "a\0b"}, "kinds_v1.word cannot hold a text with NUL"),
        ({"word": "\ud800"}, "kinds_v1.word cannot hold a text with half of a surrogate pair"),
        ({"names": ["\0"]}, "kinds_v1.names cannot hold a text with NUL"),
        ({"numbers": [1, 2**31, 2]}, "kinds_v1.numbers cannot hold a number outside of integer"),
        ({"numbers": [1, -(2**31) - 1, 2]}, "kinds_v1.numbers cannot hold a number outside of integer"),
        ({"more": {"\\\0": 1}}, "kinds_v1.more cannot hold a text with NUL"),
        ({"share": math.nan}, "kinds_v1.share cannot hold a number that is none"),
        ({"word": None}, "kinds_v1.word cannot hold nothing"),
    ],
)
def test_what_does_not_fit(changes: dict[str, Any], message: str) -> None:
    bad = msgspec.structs.replace(GOOD, **changes)
    with pytest.raises(InvalidValue, match=f"^{message}$"):
        row_validation.check(bad)
    with pytest.raises(InvalidValue, match=f"^{message}$"):
        row_validation.check_rows([GOOD, bad, GOOD])


def test_texts_in_indexes_are_bounded() -> None:
    row_validation.check(NamedRow("n" * 2_000, "é" * 1_000))
    for row in (NamedRow("n" * 2_001, ""), NamedRow("", "é" * 1_001)):
        with pytest.raises(InvalidValue, match="more than 2,000 bytes, since it is indexed"):
            row_validation.check(row)
        with pytest.raises(InvalidValue, match="more than 2,000 bytes, since it is indexed"):
            row_validation.check_rows([NamedRow("a", "b"), row])


words = st.text(st.characters(exclude_categories=()), max_size=4)
kinds = st.builds(
    KindRow,
    id=st.just(1),
    word=words,
    data=st.binary(max_size=3),
    maybe=st.none() | st.integers(-(2**64), 2**64),
    flag=st.booleans(),
    share=st.floats(),
    at=st.none() | st.just(datetime(2026, 5, 20, tzinfo=UTC)),
    names=st.lists(words, max_size=2),
    numbers=st.lists(st.integers(-(2**32), 2**32), max_size=3),
    more=st.dictionaries(words, st.one_of(words, st.integers(-5, 5), st.just("\\u0000")), max_size=2),
    level=st.sampled_from([None, "low"]),
    small=st.none() | st.integers(-(2**16), 2**16),
)


@settings(max_examples=50, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(row=kinds)
def test_what_fits_is_taken_by_the_database(database: str, row: KindRow) -> None:
    try:
        row_validation.check(row)
    except InvalidValue:
        return
    with psycopg.connect(database) as connection:
        for statement in statements.create(KindRow):
            connection.execute(statement.encode())
        connection.execute(statements.upsert(KindRow).encode(), (statements.rows_json([row]),))
        connection.rollback()


class PlainRow(Row, frozen=True):
    """A row of kinds of columns that `check_rows` checks together."""

    table = Table("plain", 1, key=("name",), indexes=("(title)",))
    name: str
    title: str | None
    number: Int
    small: SmallInt | None
    id: int | None
    more: dict[str, Any]
    share: float
    at: datetime | None = None


plain = st.builds(
    PlainRow,
    name=words | st.sampled_from(["n" * 2_000, "n" * 2_001]) | st.none(),
    title=st.none() | words | st.just("t" * 2_001),
    number=st.integers(-(2**32), 2**32) | st.none(),
    small=st.none() | st.integers(-(2**16), 2**16),
    id=st.none() | st.integers(-(2**65), 2**65),
    more=st.dictionaries(words, words | st.just("\\u0000"), max_size=1),
    share=st.floats(),
)


@given(rows=st.lists(plain, min_size=1, max_size=4))
def test_many_rows_are_refused_if_one_of_them_is(rows: list[PlainRow]) -> None:
    def is_refused(row: PlainRow) -> bool:
        try:
            row_validation.check(row)
        except InvalidValue:
            return True
        return False

    try:
        row_validation.check_rows(rows)
    except InvalidValue:
        assert any(map(is_refused, rows))
    else:
        assert not any(map(is_refused, rows))
