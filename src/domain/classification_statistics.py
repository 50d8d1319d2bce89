"""Statistics of how people have classified failures, to estimate the classification of a new failure.

Take the n results with the signature of the new failure that people have classified last. The most frequent
classification was given to k of them. By Laplace's rule of succession, the probability that a person would give this
classification to the new failure, too, is (k + 1) / (n + 2).
"""

from collections import Counter, OrderedDict
from collections.abc import Iterable, Iterator
from typing import NamedTuple

from domain.triage import Classification, ResultClassified

CONSIDERED = 50
"""Largest number of results of a signature that are considered: those that people have classified last."""
MAX_SIGNATURES = 5_000
"""Largest number of signatures of a project that are kept: those that people have classified last."""
MIN_CONFIDENCE = 75
"""Least confidence, in percent, with which the statistics classify a failure. Two results that people have classified
alike reach it, and one alone never does.
"""


class _Word(NamedTuple):
    """A person's classification of one result."""

    build_id: int
    job_id: int
    classification: Classification


class ClassificationStatistics:
    """How people have classified the failures of a project. Keeps at most CONSIDERED results of each signature, and at
    most MAX_SIGNATURES signatures.
    """

    def __init__(self) -> None:
        self._words: OrderedDict[str, dict[int, _Word]] = OrderedDict()
        """Signature -> result id -> classification that a person gave to the result. In both mappings, the newest
        classifications come last.
        """
        self._of_builds: dict[int, set[tuple[str, int]]] = {}
        """Id of a build -> signature and id of each of its classified results, so that a deleted build is forgotten
        without a search.
        """
        self._estimates: dict[str, tuple[Classification, int] | None] = {}
        """Signature -> its estimate. Lacks a signature if a classification of its results was added or forgotten since
        its last estimate.
        """

    def note(self, event: ResultClassified) -> None:
        """Adds the classification of a failure. Ignores a classification that no person gave, and a failure whose
        signature is unknown or erased.
        """
        if event.set_by_kind != "user" or not event.signature:
            return
        signature, result_id = event.signature, event.result_id
        self._forget(signature, result_id)
        results = self._words.setdefault(signature, {})
        results[result_id] = _Word(event.build_id, event.job_id, event.classification)
        self._of_builds.setdefault(event.build_id, set()).add((signature, result_id))
        self._words.move_to_end(signature)
        self._estimates.pop(signature, None)
        if len(results) > CONSIDERED:
            self._forget(signature, next(iter(results)))
        if len(self._words) > MAX_SIGNATURES:
            oldest = next(iter(self._words))
            for forgotten in list(self._words[oldest]):
                self._forget(oldest, forgotten)

    def forget_build(self, build_id: int) -> None:
        for signature, result_id in list(self._of_builds.get(build_id, ())):
            self._forget(signature, result_id)

    def forget_job(self, job_id: int) -> None:
        for signature, results in list(self._words.items()):
            for result_id in [key for key, word in results.items() if word.job_id == job_id]:
                self._forget(signature, result_id)

    def estimate_all(self) -> Iterator[tuple[str, Classification, int]]:
        """Yields (signature, classification, confidence in percent) for each signature whose classification is certain
        enough.
        """
        for signature, results in self._words.items():
            if signature not in self._estimates:
                self._estimates[signature] = estimate(word.classification for word in results.values())
            if (found := self._estimates[signature]) is not None:
                yield (signature, *found)

    def _forget(self, signature: str, result_id: int) -> None:
        results = self._words.get(signature, {})
        if (word := results.pop(result_id, None)) is None:
            return
        self._estimates.pop(signature, None)
        if not results:
            del self._words[signature]
        of_build = self._of_builds[word.build_id]
        of_build.remove((signature, result_id))
        if not of_build:
            del self._of_builds[word.build_id]


def estimate(words: Iterable[Classification]) -> tuple[Classification, int] | None:
    """Returns the probable classification of the next failure and its confidence in percent; None if it is too
    uncertain. `words` are the classifications that people gave.
    """
    counted = list(words)
    if not counted:
        return None
    ((classification, most),) = Counter(counted).most_common(1)
    confidence = 100 * (most + 1) // (len(counted) + 2)
    return (classification, confidence) if confidence >= MIN_CONFIDENCE else None
