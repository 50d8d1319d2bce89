"""Most likely cause of one failure, by the strongest evidence that there is.

The evidence, the strongest first: how a person or a rule classified the failure; how people and rules classified
earlier failures with the same signature; how the assistant or the statistics classified the failure; words in its
message that name a full disk, a refused connection and the like; a pass of the test on the same commit; the history of
the test; how people and rules classified failures with similar messages; words of other kinds of failures; words of a
mistake in the test; the build in which the test began to fail. docs/assistant.md has the table.
"""

from collections import Counter
from collections.abc import Sequence

import msgspec

from domain.assistant.evidence import (
    Evidence,
    FailedTest,
    FailureStart,
    PastFailure,
    case_ref,
    describe_probability,
    issue_ref,
    test_ref,
)
from domain.assistant.evidence import build_ref as ref_of_build
from domain.assistant.evidence import commit_ref as ref_of_commit
from domain.assistant.failure_starts import is_flaky_by_history, is_lasting
from domain.failures.failure_kinds import (
    ASSERTION,
    ERROR_IN_TEST,
    NAMES_FILE,
    OF_SOURCE,
    TEST_FILE,
    KindMatch,
    find_kind,
)
from domain.phrases import count
from domain.triage import Classification
from domain.triage import Source as ClassifiedBy

BY_USER, BY_RULE, BY_ESTIMATE = 0.95, 0.9, 0.6
DECIDED: tuple[ClassifiedBy, ...] = ("user", "rule")
"""Sources of classifications that decide the cause. The other sources only estimate it."""
BY_PAST = 0.88
"""Confidence in a cause that people or rules gave to all earlier failures with the same signature."""
BY_SIMILAR = 0.7
"""Confidence in a cause that people or rules gave to failures of other tests with similar messages."""
PASSED_ON_COMMIT = 0.85
FLAKY_BY_HISTORY = 0.9
"""Confidence that a failure is due to flakiness, if the test's runs show for certain that the test is flaky."""
MISTAKE_IN_TEST = 0.7
ASSERTION_SINCE_COMMIT, ASSERTION_ONLY = 0.72, 0.6
SINCE_COMMIT, ERROR_ONLY, NO_MESSAGE = 0.6, 0.45, 0.35
SEARCHED_TRACE = 1_000
"""Number of characters at the end of a trace that are searched for words of known kinds of failures. The trace is
searched only if the message has fewer than MAX_LINE characters.
"""
MAX_LINE = 300
"""Largest number of characters of a line that a root cause quotes."""

OF_CODE: tuple[Classification, ...] = ("product_bug", "test_bug")
"""Classifications of failures that stay until somebody changes the code."""
FIXES: dict[Classification, str] = {
    "product_bug": "Look at the change since the last build that passed, and correct the code or the expectation",
    "infra": "Check the machine and the services that the tests call, then run the build again",
    "flaky": "Quarantine the test until it waits for what it depends on",
    "test_bug": "Correct the test",
    "no_defect": "Nothing to do",
}
"""Classification -> suggested fix, for failures of which nothing but the classification is known."""
QUARANTINED_FIX = "Leave the test in quarantine until it waits for what it depends on"
RECURRING_FIX = (
    "Compare the builds in which the test failed with those in which it passed, and correct the code or the expectation"
)


class ProbableCause(msgspec.Struct, frozen=True):
    """A cause that one or more failures of a build have."""

    key: str
    """Identity of the cause: failures with equal keys have the same cause."""
    classification: Classification | None
    root_cause: str
    fix: str
    confidence: float
    refs: tuple[str, ...]
    """References of the sources that show the root cause."""
    why: str
    """Sentences that say why this is the cause."""
    why_refs: tuple[str, ...] = ()
    is_guess: bool = False
    began: FailureStart | None = None
    """Build and commit with which the failure came. Set only if a commit broke the code of the product or of the test.
    """
    is_lasting: bool = False
    """Whether the code is the cause, so that the test will probably fail in the next run of the build, too."""
    is_by_history: bool = False
    """Whether the failure counts as flaky only because of earlier failures of the test."""


def judge(evidence: Evidence, test: FailedTest) -> ProbableCause:
    """Returns the most likely cause of one failure."""
    found = find_kind(_text_of(test))  # once, since it takes a millisecond
    cause = (
        _by_decision(evidence, test, found)
        or _by_past(evidence, test, found)
        or _by_estimate(test, found)
        or _by_words(test, found, is_machine=True)
        or _by_flakiness(evidence, test)
        or _by_similar(evidence, test, found)
        or _by_words(test, found, is_machine=False)
        or _by_test_mistake(test)
        or _by_assertion(test)
    )
    began = test.first_bad
    if test.is_quarantined and cause.fix == FIXES["flaky"]:
        return msgspec.structs.replace(cause, fix=QUARANTINED_FIX)
    if cause.classification not in OF_CODE:
        return cause
    if began is not None and began.cause == "recurring" and cause.fix == FIXES["product_bug"]:
        cause = msgspec.structs.replace(cause, fix=RECURRING_FIX)
    of_commit = began if began is not None and began.cause == "commit" else None
    return msgspec.structs.replace(cause, began=of_commit, is_lasting=is_lasting(test))


def _by_decision(evidence: Evidence, test: FailedTest, found: KindMatch | None) -> ProbableCause | None:
    """Returns the cause that a person or a rule has given; None if neither has classified the failure."""
    if test.classification is None or test.classified_by not in DECIDED:
        return None
    issue = next((one for one in evidence.issues if one.id == test.known_issue_id), None)
    confidence = BY_USER if test.classified_by == "user" else BY_RULE
    if issue is not None:
        defect = f" ({issue.defect_key})" if issue.defect_key else ""
        return ProbableCause(
            f"issue {issue.id}",
            test.classification,
            f"Known issue: {issue.title}" + ("" if issue.title in _headline(test) else f": {_headline(test)}"),
            _fix_of(test.classification, found),
            confidence,
            (test_ref(test), issue_ref(issue.id)),
            f'It is the known issue "{issue.title}"{defect}, which stands for failures of the kind'
            f" {issue.classification}.",
            (issue_ref(issue.id),),
        )
    who = "A rule" if test.classified_by == "rule" else "A person"
    return _as_classified(test, test.classification, found, confidence, f"{who} has")


def _by_estimate(test: FailedTest, found: KindMatch | None) -> ProbableCause | None:
    """Returns the cause that the assistant or the statistics have given; None if the failure has no classification."""
    if test.classification is None:
        return None
    who = "The statistics have" if test.classified_by == "statistics" else "The assistant has"
    return _as_classified(test, test.classification, found, BY_ESTIMATE, who)


def _as_classified(
    test: FailedTest, classification: Classification, found: KindMatch | None, confidence: float, who: str
) -> ProbableCause:
    return ProbableCause(
        f"classified {classification} {test.signature or _headline(test)}",
        classification,
        _with_kind(found, test),
        _fix_of(classification, found),
        confidence,
        (test_ref(test),),
        f"{who} classified this failure as {classification}.",
        (test_ref(test),),
    )


def _fix_of(classification: Classification, found: KindMatch | None) -> str:
    if found is not None and found.kind.classification == classification:
        return found.kind.fix
    return FIXES[classification]


def _by_past(evidence: Evidence, test: FailedTest, found: KindMatch | None) -> ProbableCause | None:
    """Returns the cause that people or rules gave for earlier failures with this signature; None if they gave none."""
    equal = [past for past in evidence.past if past.is_equal and past.signature == test.signature]
    return _by_earlier(test, found, equal, BY_PAST, "with the same signature")


def _by_similar(evidence: Evidence, test: FailedTest, found: KindMatch | None) -> ProbableCause | None:
    """Returns the cause that people or rules gave for failures of other tests with similar messages; None if they gave
    none.
    """
    alike = [past for past in evidence.past if not past.is_equal and past.signature == test.signature]
    return _by_earlier(test, found, alike, BY_SIMILAR, "with a similar message")


def _by_earlier(
    test: FailedTest, found: KindMatch | None, earlier: Sequence[PastFailure], confidence: float, likeness: str
) -> ProbableCause | None:
    named = [past for past in earlier if past.classification is not None and past.classified_by in DECIDED]
    if not named:
        return None
    counts: Counter[Classification | None] = Counter(past.classification for past in named)
    ((classification, _),) = counts.most_common(1)
    assert classification is not None
    chosen = [past for past in named if past.classification == classification]
    return ProbableCause(
        f"past {classification} {test.signature}",
        classification,
        _with_kind(found, test),
        FIXES[classification],
        confidence * (len(chosen) / len(named)),
        (test_ref(test),),
        f"{count(len(chosen), 'earlier failure')} {likeness} {'was' if len(chosen) == 1 else 'were'} classified"
        f" as {classification}, the newest in build {chosen[0].build_id}.",
        tuple(test_ref(past) for past in chosen[:3]),
    )


def _by_words(test: FailedTest, found: KindMatch | None, *, is_machine: bool) -> ProbableCause | None:
    if found is None or (is_machine and not found.kind.is_machine):
        return None
    if found.kind.classification in ("infra", "flaky") and ASSERTION.search(test.message):
        return None  # an assertion checks the code, whatever it compares
    classification = found.kind.classification
    is_in_test = found.is_in_test if found.file_line else TEST_FILE.search(_last_file_line(test.trace)) is not None
    if found.kind.name in OF_SOURCE and is_in_test:
        classification = "test_bug"
    return ProbableCause(
        f"kind {found.kind.name}",
        classification,
        f"{found.kind.title}: {found.line[:MAX_LINE]}",
        found.kind.fix,
        found.kind.confidence,
        (test_ref(test),),
        f"The message of {test.name} says so.",
        (test_ref(test),),
    )


def _by_flakiness(evidence: Evidence, test: FailedTest) -> ProbableCause | None:
    record, began = test.record, test.first_bad
    if test.is_flaky or (began is not None and began.cause == "same_commit"):
        refs = [test_ref(test)]
        if began is not None and began.last_good_build is not None:
            refs.append(ref_of_build(began.last_good_build))
            where = f" in build {began.last_good_build}"
        else:
            passed = next((build for build in evidence.same_commit if build.status == "passed"), None)
            where = "" if passed is None else f" in build {passed.id}"
            refs += [] if passed is None else [ref_of_build(passed.id)]
        return ProbableCause(
            f"flaky {test.case_id}",
            "flaky",
            f"{test.name} is flaky: {_headline(test)}",
            FIXES["flaky"],
            PASSED_ON_COMMIT,
            (test_ref(test),),
            f"{test.name} passed and failed on the same commit{where}, so the commit did not break it.",
            tuple(refs),
        )
    if record is not None and is_flaky_by_history(test):
        return ProbableCause(
            f"flaky {test.case_id}",
            "flaky",
            f"{test.name} is flaky: {_headline(test)}",
            FIXES["flaky"],
            record.flaky_probability * FLAKY_BY_HISTORY,
            (test_ref(test), case_ref(test)),
            f"{test.name} failed in {record.failed_runs} of {record.runs} runs, and is flaky with a probability of"
            f" {describe_probability(record.flaky_probability)}.",
            (case_ref(test),),
            is_by_history=True,
        )
    return None


def _by_test_mistake(test: FailedTest) -> ProbableCause | None:
    error = ERROR_IN_TEST.search(test.message) or ERROR_IN_TEST.search(test.trace[-MAX_LINE * 2 :])
    if error is None:
        return None
    file_line = _last_file_line(test.trace)
    if file_line and TEST_FILE.search(file_line) is None:
        return None
    return ProbableCause(
        f"mistake {test.signature or _headline(test)}",
        "test_bug",
        f"The code of the test is wrong: {_headline(test)}",
        FIXES["test_bug"],
        MISTAKE_IN_TEST,
        (test_ref(test),),
        "The error was raised by the code of the test itself.",
        (test_ref(test),),
    )


def _by_assertion(test: FailedTest) -> ProbableCause:
    text = test.message or test.trace
    is_assertion = ASSERTION.search(test.message) is not None or ASSERTION.search(_headline(test)) is not None
    began = test.first_bad
    fix, refs, why = (
        FIXES["product_bug"],
        [test_ref(test)],
        f"{test.name} failed, and nothing says that the test or the machine is the cause.",
    )
    is_new = began is not None and began.cause == "commit"
    if began is not None and is_new:
        assert began.last_good_build is not None
        good, commit = began.last_good_commit or "", began.commit_sha or ""
        fix = (
            f"Look at the commits with which it began to fail, git log {good[:12]}..{commit[:12]}, and correct the code"
            " or the expectation"
        )
        refs = [ref_of_build(began.last_good_build), ref_of_commit(commit)]
        why = (
            f"{test.name} passed in build {began.last_good_build} and fails since build {began.build_id}, which ran on"
            f" commit {commit[:12]}."
        )
    elif began is not None and is_lasting(test):
        builds = count(began.failed_builds, "build")
        why = f"{test.name} has failed in {builds} in a row, so it is rather broken than flaky."
    if test.is_unlike:
        why += " Its earlier failures that were looked at had errors of other types."
    confidence = (ASSERTION_SINCE_COMMIT if is_new else ASSERTION_ONLY) if is_assertion else SINCE_COMMIT
    if not is_assertion and not is_lasting(test):
        confidence = ERROR_ONLY if text.strip() else NO_MESSAGE
    return ProbableCause(
        f"failure {test.signature or _headline(test)}",
        "product_bug",
        _headline(test) if text.strip() else f"{test.name} failed without a message",
        fix,
        confidence,
        (test_ref(test),),
        why,
        tuple(refs),
        is_guess=not is_new,
    )


def _text_of(test: FailedTest) -> str:
    return test.message if len(test.message) >= MAX_LINE else f"{test.message}\n{test.trace[-SEARCHED_TRACE:]}"


def _last_file_line(trace: str) -> str:
    """Returns the line of the trace that names the innermost file: the first frame of JavaScript and Java, the last one
    of other languages. Returns an empty text if no line names a file.
    """
    lines = [line for line in trace.splitlines() if NAMES_FILE.search(line)]
    frames = [line for line in lines if line.lstrip().startswith("at ")]
    return frames[0] if frames else lines[-1] if lines else ""


def _with_kind(found: KindMatch | None, test: FailedTest) -> str:
    return _headline(test) if found is None else f"{found.kind.title}: {found.line[:MAX_LINE]}"


def _headline(test: FailedTest) -> str:
    """Returns the first line of the message; without a message, the last line of the trace."""
    lines = [line.strip() for line in test.message.splitlines() if line.strip()]
    if not lines:
        lines = [line.strip() for line in test.trace.splitlines() if line.strip()][-1:]
    return lines[0][:MAX_LINE] if lines else "no message"
