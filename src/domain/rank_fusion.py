"""Reciprocal rank fusion: merges several rankings into one.

G. V. Cormack, C. L. A. Clarke and S. Büttcher, "Reciprocal rank fusion outperforms Condorcet and individual rank
learning methods", SIGIR 2009. An item counts 1 / (60 + rank) in each ranking that has it, with ranks from 1.
"""

from collections import defaultdict
from collections.abc import Sequence

K = 60


def fuse(rankings: Sequence[Sequence[int]]) -> dict[int, float]:
    """Returns id -> score for all ids in the rankings, the best first. A score is from 0 to 1: an item that is first in
    all rankings has 1.
    """
    scores: dict[int, float] = defaultdict(float)
    for ranking in rankings:
        for rank, item in enumerate(ranking, start=1):
            scores[item] += 1 / (K + rank)
    best = max(1, len(rankings)) / (K + 1)
    return {item: scores[item] / best for item in sorted(scores, key=lambda item: (-scores[item], -item))}
