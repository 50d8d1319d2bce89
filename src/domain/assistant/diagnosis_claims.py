"""Claims about a build and about the diagnosis of its failure, each with the sources that say so."""

import re
from collections.abc import Iterator, Sequence

from domain.assistant.answers import AnswerClaim
from domain.assistant.changed_paths import find_passed_paths
from domain.assistant.diagnoses import Diagnosis
from domain.assistant.evidence import (
    MAX_PAST_BUILDS,
    BuildFacts,
    ChangeFacts,
    Evidence,
    FailedTest,
    FailureStart,
    build_ref,
    case_ref,
    commit_ref,
    describe_probability,
    log_ref,
    test_ref,
)
from domain.assistant.failure_causes import DECIDED, ProbableCause
from domain.assistant.failure_starts import has_flaky_record
from domain.build_reasons import describe_reason
from domain.failures.log_signals import drop_commands
from domain.phrases import count, first_line
from domain.test_health import BROKEN_FROM

MAX_NAMED = 3
"""Largest number of tests, causes or commits that a claim names."""
MAX_LISTED_BUILDS = 10
"""Largest number of other builds of a matrix that a claim names."""
MAX_OTHER = 120
"""Largest number of characters that a claim quotes of the root cause of other failures, of the message of a failure
that does not count, or of a commit's message.
"""
CERTAIN = 0.85
"""Least confidence with which a claim says that a cause is almost certain."""
PROBABLE = 0.6
"""Least confidence with which a claim calls a cause likely."""
_IGNORED = re.compile(r"(?:^|(?<=\. ))\d[\d,]* [^.]+ (?:was|were) ignored\.")
"""Matches the sentence in a build's `detail` about the failures that do not count."""
NAMES = {
    "product_bug": "a defect of the product",
    "infra": "a problem of the infrastructure",
    "flaky": "flakiness",
    "test_bug": "a defect of a test",
    "no_defect": "no defect",
}


def describe_build(build: BuildFacts) -> AnswerClaim:
    """Returns a claim that says how a build ended, and how many of its tests passed and failed."""
    total = build.passed + build.failed + build.skipped
    after = f" after {build.duration_s} s" if build.duration_s else ""
    ended = {"passed": "passed", "failed": "failed", "aborted": "was aborted"}.get(build.status, f"is {build.status}")
    if total:
        skipped = f", {build.skipped:,} {_were(build.skipped)} skipped" if build.skipped else ""
        tests = f"It ran {count(total, 'test')}, {build.failed:,} failed{skipped}."
    else:
        tests = "It reported no tests."
    return AnswerClaim(
        f"Build {build.id} of job {build.job} {ended}{describe_reason(build.reason)}{after}. {tests}",
        (build_ref(build.id),),
    )


def describe_group(evidence: Evidence) -> Iterator[AnswerClaim]:
    """Yields a claim that names the other builds of the matrix that did not pass. Yields nothing if there are none."""
    if evidence.build is None or not evidence.group:
        return
    named = ", ".join(
        f"build {one.id} ({count(one.failed, 'failed test')})" if one.failed else f"build {one.id} ({one.status})"
        for one in evidence.group[:MAX_LISTED_BUILDS]
    )
    more = len(evidence.group) - MAX_LISTED_BUILDS
    yield AnswerClaim(
        f"Other builds of its matrix did not pass: {named}{f' and {more:,} more' if more > 0 else ''}."
        f" This answer is about build {evidence.build.id} alone.",
        tuple(build_ref(one.id) for one in evidence.group[:MAX_LISTED_BUILDS]),
    )


def describe_cause(diagnosis: Diagnosis) -> Iterator[AnswerClaim]:
    """Yields claims that say what the cause is, and why it is the cause."""
    cause = diagnosis.cause
    if cause.classification is None and not cause.refs:
        yield AnswerClaim("Nothing that was looked up says why.", (), is_guess=True)
        return
    how = (
        "The cause is almost certainly"
        if cause.confidence >= CERTAIN
        else "The likely cause is"
        if cause.confidence >= PROBABLE
        else "A possible cause is"
    )
    what = NAMES[cause.classification] if cause.classification else "one of unknown kind"
    refs = tuple(dict.fromkeys((*(test_ref(test) for test in diagnosis.tests[:MAX_NAMED]), *cause.refs)))
    yield AnswerClaim(f"{how} {what}: {end_sentence(cause.root_cause)}", refs, is_guess=cause.is_guess)
    if cause.why:
        yield AnswerClaim(cause.why, cause.why_refs or cause.refs, is_guess=cause.is_guess)


def describe_tests(diagnosis: Diagnosis) -> Iterator[AnswerClaim]:
    """Yields a claim that says which tests have the cause."""
    tests = diagnosis.tests
    if not tests:
        return
    named = ", ".join(test.name for test in tests[:MAX_NAMED])
    more = f" and {diagnosis.affected - MAX_NAMED:,} more" if diagnosis.affected > MAX_NAMED < len(tests) else ""
    verb = "has" if diagnosis.affected == 1 else "have"
    what = f"{count(diagnosis.affected, 'failure')} {verb} this cause"
    if diagnosis.is_joined:
        what = f"{diagnosis.affected:,} failures probably have this cause, since they began in the same build"
    yield AnswerClaim(
        f"{what}: {named}{more}.", tuple(test_ref(test) for test in tests[:MAX_NAMED]), is_guess=diagnosis.is_joined
    )


def describe_others(diagnosis: Diagnosis) -> Iterator[AnswerClaim]:
    """Yields a claim about the causes of the build's other failures. The claim is a guess if one of these causes is a
    guess, or has the classification of the main cause: then it may be the main cause after all.
    """
    if not diagnosis.others:
        return
    shown, cause_class = diagnosis.others[:MAX_NAMED], diagnosis.cause.classification
    is_guess = any(cause.is_guess or cause.classification == cause_class for cause in diagnosis.others)
    more = f", and {len(diagnosis.others) - MAX_NAMED} more" if len(diagnosis.others) > MAX_NAMED else ""
    yield AnswerClaim(
        f"Other failures of the build {'may have' if is_guess else 'have'} other causes:"
        f" {'; '.join(map(_describe_other, shown))}{more}.",
        tuple(dict.fromkeys(ref for cause in shown for ref in (*cause.refs, *_refs_of_start(cause.began)))),
        is_guess=is_guess,
    )


def _describe_other(cause: ProbableCause) -> str:
    name = NAMES[cause.classification] if cause.classification else "unknown"
    return f"{name} ({_shorten(cause.root_cause)}){_since(cause.began)}"


def _since(began: FailureStart | None) -> str:
    if began is None or not began.commit_sha:
        return ""
    return f", since build {began.build_id} on commit {began.commit_sha[:12]}"


def _refs_of_start(began: FailureStart | None) -> tuple[str, ...]:
    return () if began is None or not began.commit_sha else (commit_ref(began.commit_sha),)


def describe_unseen(evidence: Evidence, diagnosis: Diagnosis) -> Iterator[AnswerClaim]:
    """Yields a claim that says how many failures of the build were not looked at."""
    build = evidence.build
    if build is not None and diagnosis.looked_at and (unseen := build.failed - diagnosis.looked_at) > 0:
        verb = "was" if unseen == 1 else "were"
        yield AnswerClaim(f"{count(unseen, 'other failure')} {verb} not looked at.", (build_ref(build.id),))


def describe_cause_start(diagnosis: Diagnosis) -> Iterator[AnswerClaim]:
    """Yields a claim about the commit with which the cause came, unless the reason for the cause already says so."""
    cause = diagnosis.cause
    if cause.began is not None and not set(_refs_of_start(cause.began)) <= set(cause.why_refs):
        yield from describe_start(next(test for test in diagnosis.tests if test.first_bad == cause.began))


def describe_start(test: FailedTest) -> Iterator[AnswerClaim]:
    """Yields a claim that says in which build a test began to fail."""
    began = test.first_bad
    if began is None:
        return
    if began.last_good_build is None:
        builds = count(began.failed_builds, "build")
        text = f"{test.name} has failed in {builds} in a row, as far back as was searched."
        if began.is_first_run:
            text = f"{test.name} has failed since its first run on the branch, in build {began.build_id}: in {builds}."
        yield AnswerClaim(text, (test_ref(test),))
        return
    good, bad = began.last_good_commit, began.commit_sha
    refs = [test_ref(test), build_ref(began.last_good_build), *([commit_ref(bad)] if bad else ())]
    if began.cause == "same_commit":
        on = f" {bad[:12]}" if bad else ""
        yield AnswerClaim(
            f"{test.name} passed in build {began.last_good_build} and failed in build {began.build_id} on the same"
            f" commit{on}, so no commit broke it.",
            tuple(refs),
        )
        return
    if began.cause == "recurring":
        yield AnswerClaim(
            f"{test.name} last passed in build {began.last_good_build} and failed again in build {began.build_id}. It"
            " failed before, too, so the commits in between are probably not the reason.",
            tuple(refs),
        )
        return
    between = (
        f": it came with a commit after {good[:12]}, up to {bad[:12]}"
        if good and bad and began.cause == "commit"
        else ""
    )
    yield AnswerClaim(
        f"{test.name} last passed in build {began.last_good_build} and first failed in build"
        f" {began.build_id}{between}.",
        tuple(refs),
    )


def describe_failure(test: FailedTest) -> Iterator[AnswerClaim]:
    """Yields claims about a test whose failure does not count: the message, and since when the test has failed."""
    if message := first_line(test.message)[:MAX_OTHER]:
        yield AnswerClaim(f"{test.name} failed: {end_sentence(message)}", (test_ref(test),))
    yield from describe_start(test)


def describe_changes(evidence: Evidence, tests: Sequence[FailedTest]) -> Iterator[AnswerClaim]:
    """Yields claims about the changes of the repository with which the failures of the tests may have come. If traces
    of the tests pass through changed files, the claims name these files; otherwise one claim names the newest changes.
    Without tests, the log stands for the traces.
    """
    starts = {(test.first_bad.last_good_build, test.first_bad.build_id) for test in tests if test.first_bad is not None}
    changes = [
        change for change in evidence.changes if not tests or (change.last_good_build, change.first_bad_build) in starts
    ]
    passed = [(change, path, refs) for change in changes for path, refs in _find_passed(evidence, change, tests)]
    for change, path, refs in passed[:MAX_NAMED]:
        what = "the trace" if tests else "the log"
        verb = "passes through" if tests else "names"
        yield AnswerClaim(
            f"{path} was changed in commit {_describe_commit(change)}, and {what} {verb} it.",
            (commit_ref(change.commit_sha), *refs),
        )
    if not passed and changes:
        first = changes[0]
        named = "; ".join(_describe_commit(change) for change in changes[:MAX_NAMED])
        more = f" and {len(changes) - MAX_NAMED} more" if len(changes) > MAX_NAMED else ""
        yield AnswerClaim(
            f"After build {first.last_good_build}, at latest with build {first.first_bad_build}, came"
            f" {count(len(changes), 'change')} that the server knows: {named}{more}.",
            tuple(commit_ref(change.commit_sha) for change in changes[:MAX_NAMED]),
        )


def _find_passed(
    evidence: Evidence, change: ChangeFacts, tests: Sequence[FailedTest]
) -> Iterator[tuple[str, tuple[str, ...]]]:
    """Yields pairs (changed path, sources) for the paths through which traces of the tests pass, or which the log
    names.
    """
    build = evidence.build
    assert build is not None, "changes are those of a build"
    texts = [(test_ref(test), test.trace) for test in tests]
    if not tests:
        texts = [(log_ref(build, excerpt), "\n".join(drop_commands(excerpt.lines))) for excerpt in evidence.excerpts]
    refs: dict[str, list[str]] = {}
    for ref, text in texts:
        for path in find_passed_paths(change.paths, [text]):
            refs.setdefault(path, []).append(ref)
    for path in change.paths:
        if path in refs:
            yield path, tuple(refs[path][:MAX_NAMED])


def _describe_commit(change: ChangeFacts) -> str:
    author = f" by {change.author}" if change.author else ""
    message = f" (“{_shorten(change.message)}”)" if change.message else ""
    return f"{change.commit_sha[:12]}{author}{message}"


def describe_record(test: FailedTest) -> Iterator[AnswerClaim]:
    """Yields a claim about the record of a test: how often it failed so far, and whether it is flaky."""
    record = test.record
    if record is None or not record.runs:
        return
    if has_flaky_record(test):
        verdict = f": it is flaky with a probability of {describe_probability(record.flaky_probability)}"
        if test.is_unlike:
            verdict += ", but this failure is unlike those before"
    elif has_passed_on_commit(test):
        verdict = ""
    elif record.broken_probability >= BROKEN_FROM:
        verdict = ": it is rather broken than flaky"
    elif record.retried_runs or not record.failed_runs:
        verdict = ""
    elif record.failed_runs > 1:
        verdict = ": these failures do not show that it is flaky"
    else:
        verdict = ": one failure does not show whether it is flaky"
    retried = f", and passed in {record.retried_runs:,} on a retry only" if record.retried_runs else ""
    which = f" ({count(record.left_out, 'failure')} left out, as in its health)" if record.left_out else ""
    runs = "its only run" if record.runs == record.failed_runs == 1 else ""
    runs = runs or f"{record.failed_runs:,} of its {count(record.runs, 'run')}"
    yield AnswerClaim(
        f"{test.name} failed in {runs}{retried}{which}{verdict}.",
        (case_ref(test),),
    )


def describe_past(evidence: Evidence, tests: Sequence[FailedTest]) -> Iterator[AnswerClaim]:
    """Yields claims about earlier failures that are equal or similar to the failures of `tests`."""
    signatures = list(dict.fromkeys(test.signature for test in tests))
    cut = {test.signature for test in tests if test.earlier_failures >= MAX_PAST_BUILDS}
    groups = [
        [past for past in evidence.past if past.is_equal and past.signature == signature] for signature in signatures
    ]
    found = [equal for equal in groups if equal][:MAX_NAMED]
    for equal in found:
        classified = next(
            (f", classified as {past.classification}" for past in equal if past.classified_by in DECIDED), ""
        )
        builds = sorted({past.build_id for past in equal}, reverse=True)
        what = "The same failure" if len(found) == 1 else f"The failure of {equal[0].name}"
        least = "at least " if len(builds) >= MAX_PAST_BUILDS or equal[0].signature in cut else ""
        yield AnswerClaim(
            f"{what} was in {least}{count(len(builds), 'earlier build')}, at last in {builds[0]}{classified}.",
            tuple(test_ref(past) for past in equal[:MAX_NAMED]),
        )
    alike = [past for past in evidence.past if not past.is_equal and past.signature in signatures][:MAX_NAMED]
    for past in alike:
        message = first_line(past.message)[:160] or "no message"
        yield AnswerClaim(
            f"A similar failure is that of {past.name} in build {past.build_id}: {end_sentence(message)}",
            (test_ref(past),),
        )


def describe_uncounted(build: BuildFacts, named: Sequence[FailedTest] = ()) -> Iterator[AnswerClaim]:
    """Yields a claim with the number of failures that do not count against the build. `named` are some of the tests
    that have these failures. For a build that passed, also yields what its `detail` says about missing results.
    """
    parts = [
        f"{number:,} {text}"
        for number, text in ((build.quarantined, "quarantined"), (build.known_issues, "known to the reporter"))
        if number
    ]
    if parts:
        shown = named[:MAX_NAMED]
        more = build.quarantined + build.known_issues - len(shown)
        names = ", ".join(test.name for test in shown) + (f" and {more:,} more" if more > 0 else "")
        yield AnswerClaim(
            f"Of its failures, {' and '.join(parts)} did not count{f': {names}' if shown else ''}.",
            (build_ref(build.id), *map(test_ref, shown)),
        )
    if build.status == "passed" and (detail := _IGNORED.sub("", build.detail or "").strip()):
        yield AnswerClaim(end_sentence(detail), (build_ref(build.id),))


def has_passed_on_commit(test: FailedTest) -> bool:
    """Returns whether the test both passed and failed on one commit."""
    return test.is_flaky or (test.first_bad is not None and test.first_bad.cause == "same_commit")


def _shorten(text: str) -> str:
    """Returns the first MAX_OTHER characters of a text, cut at the end of a word."""
    text = " ".join(text.split())
    return text if len(text) <= MAX_OTHER else f"{text[:MAX_OTHER].rpartition(' ')[0] or text[:MAX_OTHER]} ..."


def _were(number: int) -> str:
    return "was" if number == 1 else "were"


def end_sentence(text: str) -> str:
    """Returns the text in one line, with a full stop at its end unless it ends in `.`, `!` or `?`."""
    text = " ".join(text.split())
    return text if text.endswith((".", "!", "?")) else f"{text}."
