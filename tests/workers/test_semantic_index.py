"""Descriptions of codes in texts, and how rankings are fused."""

import hypothesis
import pytest
from hypothesis import strategies as st

from domain.failures.failure_codes import describe_codes
from domain.rank_fusion import fuse


@pytest.mark.parametrize(
    ("text", "description"),
    [
        ("ECONNREFUSED 127.0.0.1:6379", "Connection refused"),
        ("OSError: [Errno 28] write failed", "No space left on device"),
        ("killed by SIGSEGV", "Segmentation fault"),
        ("make: exit code 137", "Killed"),
        ("HTTP 429 Too Many, 429 again and 404", "Too Many Requests Not Found"),
        ("expected 4.04, 1,404 or 404.5, port :404, exit code 3, ERROR", ""),
    ],
)
def test_codes_are_described(text: str, description: str) -> None:
    assert describe_codes(text) == description


def test_an_item_of_several_rankings_comes_first() -> None:
    fused = fuse([[1, 2, 3], [3, 4]])
    assert list(fused) == [3, 1, 4, 2]
    assert fuse([[7], [7]]) == {7: 1.0}
    assert fuse([]) == {}


@hypothesis.given(st.lists(st.lists(st.integers(0, 9), unique=True, max_size=9), max_size=3))
def test_scores_are_shares(rankings: list[list[int]]) -> None:
    fused = fuse(rankings)
    assert all(0 < score <= 1 for score in fused.values())
    assert set(fused) == {item for ranking in rankings for item in ranking}
