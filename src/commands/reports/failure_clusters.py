"""Clusters of a project's failures over many builds: failures that probably have one cause. `commands.reports.causes`
compares their messages and traces. Whether tests failed in the same builds does not count here.
"""

from collections.abc import Sequence
from datetime import datetime
from itertools import chain

import msgspec

from commands.reports.causes import MAX_EXAMPLES, CauseKind, EqualFailures, find_causes
from domain.assistant.answers import Answer, AnswerClaim
from domain.phrases import count

MAX_CLUSTERS = 20
"""Largest number of clusters that are shown: those with most failures."""
MAX_CLAIMS = 5
"""Largest number of clusters that the answer names, each in a claim."""
MAX_MESSAGE = 300
"""Largest number of characters that are shown of a failure's message."""


class FailedBuild(msgspec.Struct, frozen=True):
    """A failed build with its failures by signature."""

    build_id: int
    created_at: datetime
    failures: tuple[EqualFailures, ...]


class FailureCluster(msgspec.Struct, frozen=True):
    kind: CauseKind
    message: str
    """Message of one of the failures."""
    failures: int
    builds: int
    """Number of builds in which a failure of the cluster occurred."""
    first_seen: datetime
    """Creation time of the first of the analysed builds in which a failure of the cluster occurred."""
    first_build: int
    last_build: int
    signatures: tuple[str, ...]
    """Signatures of the failures, beginning with the signature of the newest failure."""
    result_ids: tuple[int, ...]
    """Ids of the newest failed results of the cluster, MAX_EXAMPLES at most, in ascending order."""
    tests: tuple[str, ...] = ()
    """Names of the tests of `result_ids`."""


def find_clusters(builds: Sequence[FailedBuild]) -> list[FailureCluster]:
    """Returns the clusters of the failures of builds, the largest first, MAX_CLUSTERS at most."""
    seen: dict[str, list[FailedBuild]] = {}
    merged: dict[str, EqualFailures] = {}
    for build in sorted(builds, key=lambda build: build.build_id):
        for failure in build.failures:
            seen.setdefault(failure.signature, []).append(build)
            known = merged.get(failure.signature)
            merged[failure.signature] = failure if known is None else _add(known, failure)
    clusters: list[FailureCluster] = []
    for cause in find_causes(list(merged.values())):
        found = {build.build_id: build for signature in cause.signatures for build in seen[signature]}
        first = found[min(found)]
        examples = {signature: merged[signature].result_ids for signature in cause.signatures}
        clusters.append(
            FailureCluster(
                cause.kind,
                cause.message[:MAX_MESSAGE],
                cause.results,
                len(found),
                first.created_at,
                first.build_id,
                max(found),
                tuple(sorted(examples, key=lambda signature: max(examples[signature]), reverse=True)),
                tuple(sorted(chain.from_iterable(examples.values()))[-MAX_EXAMPLES:]),
            )
        )
    return clusters[:MAX_CLUSTERS]


def summarize_clusters(project_id: int, clusters: Sequence[FailureCluster], builds: int) -> Answer:
    """Returns an answer with one claim, and its sources, for each of the MAX_CLAIMS largest clusters."""
    if not clusters:
        text = f"No test failed in the {builds:,} failed builds that were looked at."
        return Answer((AnswerClaim(text, (f"project:{project_id}",)),), confidence=1.0)
    claims = [
        AnswerClaim(
            f"{count(one.failures, 'failure')} in {one.builds:,} of the newest {count(builds, 'failed build')}, the"
            f" first of them build {one.first_build}:"
            f" {' '.join(one.message.split()) or 'no message'}.",
            (f"build:{one.first_build}", *(f"test:{result_id}" for result_id in one.result_ids[:3])),
        )
        for one in clusters[:MAX_CLAIMS]
    ]
    return Answer(tuple(claims), affected_tests=sum(one.failures for one in clusters), confidence=1.0)


def _add(one: EqualFailures, other: EqualFailures) -> EqualFailures:
    return msgspec.structs.replace(
        one, results=one.results + other.results, result_ids=[*other.result_ids, *one.result_ids][:MAX_EXAMPLES]
    )
