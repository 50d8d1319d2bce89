"""Answers without a language model: by rules and statistics, in sentences that cite what says so. The same evidence
always gives the same answer.
"""

from collections.abc import Iterator

from domain import diagnosis_claims as claims
from domain.answers import Answer, AnswerClaim
from domain.chat_intents import Intent, find_intent
from domain.diagnoses import Diagnosis, diagnose
from domain.evidence import BuildFacts, Evidence, FailedTest, build_ref, test_ref
from domain.failure_causes import is_flaky_by_history
from domain.next_steps import find_next_step
from domain.project_insights import describe_project

MAX_LISTED = 10
"""Number of failed tests that a reply lists."""
CAPABILITIES = (
    "It can say why a build failed, whether a test is flaky, since when it fails, how it did before, which tests"
    " failed, how long a build took, and what to do next."
)


def answer(evidence: Evidence) -> Answer:
    """Returns the answer to the evidence's question."""
    question = evidence.question
    if question.kind == "summary":
        return Answer(tuple(summarize(evidence)))
    if question.kind == "chat":
        return _reply(evidence, find_intent(question.message))
    return answer_diagnosis(evidence)


def answer_diagnosis(evidence: Evidence) -> Answer:
    """Returns the diagnosis of a failed build, as an answer with claims."""
    build = evidence.build
    if build is None:
        return Answer((AnswerClaim("There is no build to look at.", is_guess=True),))
    found = diagnose(evidence)
    return _with_diagnosis(evidence, found, _explain(evidence, build, found))


def summarize(evidence: Evidence) -> Iterator[AnswerClaim]:
    """Yields the claims of a summary: how the build did, and what its failures have in common."""
    build = evidence.build
    if build is None:
        if evidence.project is not None:
            yield from describe_project(evidence.project)
        else:
            yield AnswerClaim("There is no build to look at.")
        return
    yield claims.describe_build(build)
    if build.status == "failed":
        found = diagnose(evidence)
        yield next(claims.describe_cause(found))
        yield from claims.describe_others(evidence, found)
    flaky = find_flaky(evidence)
    if flaky:
        verb = "appears" if len(flaky) == 1 else "appear"
        yield AnswerClaim(
            f"{claims.count(len(flaky), 'failed test')} {verb} flaky based on history:"
            f" {', '.join(test.name for test in flaky[: claims.MAX_NAMED])}.",
            tuple(test_ref(test) for test in flaky[: claims.MAX_NAMED]),
        )
    if build.quarantined or build.known_issues:
        parts = [
            f"{number:,} {text}"
            for number, text in ((build.quarantined, "quarantined"), (build.known_issues, "known to the reporter"))
            if number
        ]
        yield AnswerClaim(f"Of its failures, {' and '.join(parts)} did not count.", (build_ref(build.id),))


def find_flaky(evidence: Evidence) -> list[FailedTest]:
    """Returns the failed tests that are flaky by their history, or that also passed on the commit."""
    return [
        test
        for test in evidence.failures
        if test.is_flaky
        or (test.first_bad is not None and test.first_bad.cause == "same_commit")
        or is_flaky_by_history(test)
    ]


def _explain(evidence: Evidence, build: BuildFacts, found: Diagnosis) -> Iterator[AnswerClaim]:
    yield claims.describe_build(build)
    yield from claims.describe_cause(found)
    yield from claims.describe_tests(found)
    yield from claims.describe_others(evidence, found)
    for past in claims.describe_past(evidence):
        yield past
        break
    if found.cause.fix and found.cause.refs:
        yield AnswerClaim(f"Suggested fix: {found.cause.fix}.", found.cause.refs, is_guess=True)


def _with_diagnosis(evidence: Evidence, found: Diagnosis, answer_claims: Iterator[AnswerClaim]) -> Answer:
    cause = found.cause
    return Answer(
        tuple(answer_claims),
        cause.classification,
        cause.root_cause,
        found.confidence,
        cause.fix,
        found.affected,
        find_next_step(evidence, found),
    )


def _reply(evidence: Evidence, intent: Intent) -> Answer:
    build = evidence.build
    if intent == "unknown":
        ref = () if build is None else (build_ref(build.id),)
        return Answer((AnswerClaim(f"The assistant does not know how to answer that. {CAPABILITIES}", ref),))
    if build is None:
        if evidence.project is None:
            return Answer((AnswerClaim(f"No build was found that the question may be about. {CAPABILITIES}"),))
        return Answer(tuple(describe_project(evidence.project)))
    if intent == "summary":
        return Answer(tuple(summarize(evidence)))
    if intent == "duration":
        return Answer(tuple(_describe_duration(evidence, build)))
    if build.status != "failed":
        return Answer(tuple(_describe_unfailed(evidence, build)))
    found = diagnose(evidence)
    match intent:
        case "flaky":
            answer_claims = _describe_flakiness(evidence, build)
        case "history":
            answer_claims = _describe_history(evidence, build)
        case "changed":
            answer_claims = _describe_changes(evidence, build)
        case "tests":
            answer_claims = _list_tests(evidence, build)
        case "next":
            answer_claims = _recommend(evidence, found)
        case _:
            answer_claims = _explain(evidence, build, found)
    return _with_diagnosis(evidence, found, answer_claims)


def _describe_unfailed(evidence: Evidence, build: BuildFacts) -> Iterator[AnswerClaim]:
    yield claims.describe_build(build)
    if build.status in ("queued", "running"):
        yield AnswerClaim("It has not ended yet, so there is no failure to explain.", (build_ref(build.id),))
    elif build.status == "passed":
        yield AnswerClaim("It did not fail.", (build_ref(build.id),))
    else:
        yield from claims.describe_cause(diagnose(evidence))


def _describe_duration(evidence: Evidence, build: BuildFacts) -> Iterator[AnswerClaim]:
    verb = "took" if build.status in ("passed", "failed", "aborted") else "has taken"
    yield AnswerClaim(f"Build {build.id} {verb} {build.duration_s} s.", (build_ref(build.id),))


def _asked_about(evidence: Evidence) -> list[FailedTest]:
    """Returns the test that the question names, or else all failed tests that were looked at."""
    result_id, message = evidence.question.result_id, evidence.question.message.lower()
    chosen = [test for test in evidence.failures if test.result_id == result_id]
    if not chosen:
        chosen = [test for test in evidence.failures if test.name.split("::")[-1].lower() in message]
    return chosen or list(evidence.failures)


def _describe_flakiness(evidence: Evidence, build: BuildFacts) -> Iterator[AnswerClaim]:
    tests = _asked_about(evidence)[: claims.MAX_NAMED]
    found_any = False
    for test in tests:
        if test.is_flaky or (test.first_bad is not None and test.first_bad.cause == "same_commit"):
            found_any = True
            yield AnswerClaim(
                f"{test.name} is flaky: it passed and failed on the same commit.",
                (test_ref(test), *(ref for claim in claims.describe_start(test) for ref in claim.sources[1:2])),
            )
        for claim in claims.describe_record(test):
            found_any = True
            yield claim
    if not found_any:
        yield AnswerClaim(
            f"Nothing is known that says whether the failures of build {build.id} are flaky.", (build_ref(build.id),)
        )


def _describe_history(evidence: Evidence, build: BuildFacts) -> Iterator[AnswerClaim]:
    found_any = False
    for test in _asked_about(evidence)[: claims.MAX_NAMED]:
        for claim in (*claims.describe_record(test), *claims.describe_start(test)):
            found_any = True
            yield claim
    for claim in claims.describe_past(evidence):
        found_any = True
        yield claim
    if evidence.earlier:
        passed = sum(one.status == "passed" for one in evidence.earlier)
        yield AnswerClaim(
            f"Of the {len(evidence.earlier)} builds of the job before, {passed} passed.",
            tuple(build_ref(one.id) for one in evidence.earlier[: claims.MAX_NAMED]),
        )
    elif not found_any:
        yield AnswerClaim(f"Nothing is known of the time before build {build.id}.", (build_ref(build.id),))


def _describe_changes(evidence: Evidence, build: BuildFacts) -> Iterator[AnswerClaim]:
    found_any = False
    for test in _asked_about(evidence)[: claims.MAX_NAMED]:
        for claim in claims.describe_start(test):
            found_any = True
            yield claim
    last_green = next((one for one in evidence.earlier if one.status == "passed"), None)
    if last_green is not None:
        commits = ""
        if last_green.commit_sha and build.commit_sha:
            same = last_green.commit_sha == build.commit_sha
            commits = (
                " on the same commit"
                if same
                else f": it ran on commit {last_green.commit_sha[:12]}, this one on {build.commit_sha[:12]}"
            )
        yield AnswerClaim(
            f"The last build before that passed is {last_green.id}{commits}.",
            (build_ref(last_green.id), build_ref(build.id)),
        )
    elif not found_any:
        yield AnswerClaim(
            f"No earlier build that passed was found, so it is not known what changed before build {build.id}.",
            (build_ref(build.id),),
        )


def _list_tests(evidence: Evidence, build: BuildFacts) -> Iterator[AnswerClaim]:
    if not evidence.failures:
        yield AnswerClaim(f"Build {build.id} has no failed tests.", (build_ref(build.id),))
        return
    verb = "test of build" if build.failed == 1 else "tests of build"
    yield AnswerClaim(f"{build.failed:,} {verb} {build.id} failed.", (build_ref(build.id),))
    for test in evidence.failures[:MAX_LISTED]:
        lines = test.message.strip().splitlines()
        yield AnswerClaim(f"{test.name}: {lines[0][:160] if lines else 'no message'}.", (test_ref(test),))


def _recommend(evidence: Evidence, found: Diagnosis) -> Iterator[AnswerClaim]:
    yield from claims.describe_cause(found)
    step = find_next_step(evidence, found)
    if found.cause.fix:
        yield AnswerClaim(f"Suggested fix: {found.cause.fix}.", found.cause.refs, is_guess=True)
    if step is not None:
        yield AnswerClaim(
            f"{step.text} By one request: {step.method} /api/v3{step.path}.", found.cause.refs, is_guess=True
        )
