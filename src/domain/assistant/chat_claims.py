"""Claims of replies to chat messages, one function for each kind of question. Each claim cites its sources."""

from collections.abc import Iterator

from domain.assistant import diagnosis_claims as claims
from domain.assistant.answers import AnswerClaim
from domain.assistant.chat_intents import BUILD_INTENTS, Intent
from domain.assistant.chat_mentions import find_names_of_tests
from domain.assistant.diagnoses import Diagnosis, diagnose
from domain.assistant.evidence import BuildFacts, Evidence, build_ref, test_ref
from domain.assistant.failure_starts import is_flaky_by_history
from domain.assistant.job_states import list_tests_of_jobs
from domain.assistant.next_steps import find_next_step
from domain.phrases import count, first_line

MAX_LISTED = 10
"""Largest number of failed tests that a reply lists."""
FIX = "Suggested fix:"
NAME_A_BUILD = "name a build, such as build 12, or a job, whose newest build counts then."
WHOLE_PROJECT = "What follows is about the whole project."


def name_list(evidence: Evidence, intent: Intent) -> Iterator[AnswerClaim]:
    """Yields the reply to a question for which the assistant looks nothing up. The reply names the API request that
    answers the question.
    """
    tests = f"GET /api/v3/test-cases?project_id={evidence.question.project_id}"
    if intent == "times":
        yield AnswerClaim(f"How long single tests take is not looked up here. {tests}&sort=slowest lists them.")
    elif intent == "ranking":
        yield AnswerClaim(f"Which tests fail most is not looked up here. {tests}&sort=failures lists them.")
    else:
        job = "JOB" if evidence.build is None else evidence.build.job_id
        yield AnswerClaim(
            f"The quarantine is not looked up here. GET /api/v3/quarantine?job_id={job} lists the tests in it, and"
            f" {tests}&only=flaky those that may belong there."
        )


def describe_unfailed(evidence: Evidence, build: BuildFacts) -> Iterator[AnswerClaim]:
    yield claims.describe_build(build)
    yield from claims.describe_group(evidence)
    if build.status in ("queued", "running"):
        yield AnswerClaim("It has not ended yet, so there is no failure to explain.", (build_ref(build.id),))
    elif build.status == "passed":
        yield AnswerClaim("It did not fail.", (build_ref(build.id),))
        yield from claims.describe_uncounted(build, evidence.failures)
        for test in evidence.failures[: claims.MAX_NAMED]:
            yield from claims.describe_failure(test)
        if names := find_names_of_tests(evidence.question.message):
            named = " and ".join(names[: claims.MAX_NAMED])
            yield AnswerClaim(f"Nothing was looked up about {named}: {NAME_A_BUILD}", (build_ref(build.id),))
    else:
        yield from claims.describe_cause(diagnose(evidence))


def describe_duration(evidence: Evidence, build: BuildFacts) -> Iterator[AnswerClaim]:
    if not build.duration_s:
        yield AnswerClaim(f"Build {build.id} has not run.", (build_ref(build.id),))
        return
    verb = "took" if build.status in ("passed", "failed", "aborted") else "has taken"
    yield AnswerClaim(f"Build {build.id} {verb} {build.duration_s} s.", (build_ref(build.id),))


def name_unknown_tests(evidence: Evidence, build: BuildFacts) -> str:
    """Returns a sentence that says that the tests which the question names were not looked at. Returns an empty text if
    the question names no tests. Must be called only if none of the named tests was looked at.
    """
    question = evidence.question
    names = [name for name in find_names_of_tests(question.message) if name.lower() not in build.job.lower()]
    if question.result_id is not None:
        names = [f"result {question.result_id}"]
    if not names:
        return ""
    return (
        f"Nothing is known here about {' and '.join(names[: claims.MAX_NAMED])}: it is not among the failed tests of"
        f" build {build.id} that were looked at."
    )


def limit_to_project(evidence: Evidence, intent: Intent) -> Iterator[AnswerClaim]:
    """Yields a claim that the answer is about the whole project, if the question is about a build or about tests."""
    if names := find_names_of_tests(evidence.question.message):
        named = " and ".join(names[: claims.MAX_NAMED])
        yield AnswerClaim(f"Nothing was looked up about {named} alone: {NAME_A_BUILD} {WHOLE_PROJECT}")
    elif intent in BUILD_INTENTS:
        yield AnswerClaim(f"It is not known which build is meant: {NAME_A_BUILD} {WHOLE_PROJECT}")


def describe_flakiness(evidence: Evidence, build: BuildFacts) -> Iterator[AnswerClaim]:
    found_any = False
    for test in evidence.failures[: claims.MAX_NAMED]:
        if claims.has_passed_on_commit(test):
            found_any = True
            known = "is flaky" if is_flaky_by_history(test) else "is probably flaky"
            yield AnswerClaim(
                f"{test.name} {known}: it passed and failed on the same commit.",
                (test_ref(test), *(ref for claim in claims.describe_start(test) for ref in claim.sources[1:2])),
            )
        for claim in claims.describe_record(test):
            found_any = True
            yield claim
    if not found_any:
        yield AnswerClaim(
            f"Nothing is known that says whether the failures of build {build.id} are flaky.", (build_ref(build.id),)
        )


def describe_history(evidence: Evidence, build: BuildFacts) -> Iterator[AnswerClaim]:
    found_any = False
    for test in evidence.failures[: claims.MAX_NAMED]:
        for claim in (*claims.describe_record(test), *claims.describe_start(test)):
            found_any = True
            yield claim
    for claim in claims.describe_past(evidence, evidence.failures):
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


def describe_last_good(evidence: Evidence, build: BuildFacts) -> Iterator[AnswerClaim]:
    found_any = False
    for test in evidence.failures[: claims.MAX_NAMED]:
        for claim in claims.describe_start(test):
            found_any = True
            yield claim
    yield from claims.describe_changes(evidence, evidence.failures)
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


def list_tests(evidence: Evidence, build: BuildFacts) -> Iterator[AnswerClaim]:
    if not evidence.failures:
        yield AnswerClaim(f"Build {build.id} has no failed tests.", (build_ref(build.id),))
        return
    verb = "test of build" if build.failed == 1 else "tests of build"
    yield AnswerClaim(f"{build.failed:,} {verb} {build.id} failed.", (build_ref(build.id),))
    for test in evidence.failures[:MAX_LISTED]:
        message = first_line(test.message)[:160] or "no message"
        yield AnswerClaim(f"{test.name}: {claims.end_sentence(message)}", (test_ref(test),))
    yield from claims.describe_group(evidence)
    yield from claims.describe_uncounted(build)
    yield from list_tests_of_jobs(evidence.jobs, but=build.id)
    hidden = build.failed - min(len(evidence.failures), MAX_LISTED)
    if hidden > 0:
        verb = "is" if hidden == 1 else "are"
        yield AnswerClaim(f"{count(hidden, 'failure')} of the build {verb} not listed here.", (build_ref(build.id),))


def recommend(evidence: Evidence, found: Diagnosis) -> Iterator[AnswerClaim]:
    yield from claims.describe_group(evidence)
    yield from claims.describe_cause(found)
    if found.cause.classification not in ("infra", "flaky", "no_defect"):
        yield from claims.describe_changes(evidence, found.tests)
    step = find_next_step(evidence, found)
    if found.cause.fix:
        yield AnswerClaim(f"{FIX} {found.cause.fix}.", found.cause.refs, is_guess=True)
    if step is not None:
        yield AnswerClaim(
            f"{step.text} By one request: {step.method} /api/v3{step.path}.", found.cause.refs, is_guess=True
        )
