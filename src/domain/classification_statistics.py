"""Statistics of how people have classified failures: what a new failure with an equal signature probably is.

Of the n results with the signature that people have classified last, k have the most frequent classification. Laplace's
rule of succession estimates the probability that a person would give it to the next one, too: (k + 1) / (n + 2).
"""

from collections import Counter
from collections.abc import Iterable

from domain.triage import Classification

CONSIDERED = 50
"""Number of results of a signature that count: those that people have classified last."""
MIN_CONFIDENCE = 75
"""Least confidence, in percent, with which the statistics classify a failure. Two results that people have classified
alike reach it, and one alone never does.
"""


def estimate(words: Iterable[Classification]) -> tuple[Classification, int] | None:
    """Returns the classification of the next failure, with its confidence in percent; None if it is too uncertain.
    `words` are the classifications by people, of which the last ones count.
    """
    counted = list(words)[-CONSIDERED:]
    if not counted:
        return None
    ((classification, most),) = Counter(counted).most_common(1)
    confidence = 100 * (most + 1) // (len(counted) + 2)
    return (classification, confidence) if confidence >= MIN_CONFIDENCE else None
