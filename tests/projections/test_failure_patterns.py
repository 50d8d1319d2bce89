"""Recurring failures of a project: counted by their messages, and as a least number if not all were looked at."""

import pytest

from projections.project_evidence import group_failures
from projections.test_health import FailureText

IMPORT = "ImportError: cannot import name 'shop' from 'app'"
TEXTS = [FailureText(number, number // 2, IMPORT, f"s{number}") for number in range(1, 5)]


@pytest.mark.parametrize(("cut", "is_cut"), [(set(), False), ({4}, False), (set(), True)])
def test_equal_messages_are_one_pattern(cut: set[int], is_cut: bool) -> None:
    (pattern,) = group_failures(TEXTS, cut, is_cut=is_cut)
    assert (pattern.message, pattern.failures) == (IMPORT, 4)
    assert pattern.is_cut == (bool(cut) or is_cut)
