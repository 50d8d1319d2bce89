"""Words by which failures of other tests with similar messages are found."""

import pytest

from domain.failures.telling_words import find_telling_words


@pytest.mark.parametrize(
    "message",
    [
        "AssertionError: assert 500 == 200",
        "AssertionError: assert response.status == 200",
        "AssertionError: assert 'paid' == 'refunded'",
        "AssertionError: assert not True",
        "java.lang.AssertionError: expected:<200> but was:<500>",
        "TypeError: 'NoneType' object is not subscriptable",
        "AttributeError: 'NoneType' object has no attribute 'id'",
        "expect(received).toBe(expected)",
        "KeyError: total",
        "",
    ],
)
def test_words_of_all_assertions_do_not_make_failures_alike(message: str) -> None:
    assert find_telling_words(message) == []


def test_the_longest_words_of_the_first_line_are_common_to_similar_messages() -> None:
    message = "\nRuntimeError: warehouse replied with unreadable pallet for order 9\nsecond line"
    assert find_telling_words(message) == ["unreadable", "warehouse", "runtime", "replied", "pallet", "error"]
    assert find_telling_words("AssertionError: cache miss for key") == [
        "assertion",
        "error",
        "cache",
        "miss",
        "for",
        "key",
    ]
