"""Answers without a language model: rules and statistics find them, and every sentence cites its sources. The same
evidence always gives the same answer.
"""

from collections.abc import Iterator
from itertools import chain

import msgspec

from domain.assistant import chat_claims as replies
from domain.assistant import diagnosis_claims as claims
from domain.assistant.answers import Answer, AnswerClaim
from domain.assistant.chat_intents import LISTED_ELSEWHERE, Intent, find_intent
from domain.assistant.chat_mentions import find_asked_tests, find_build_numbers
from domain.assistant.chat_names import describe_missing
from domain.assistant.diagnoses import Diagnosis, diagnose
from domain.assistant.evidence import BuildFacts, Evidence, FailedTest, build_ref, test_ref
from domain.assistant.failure_starts import is_flaky_by_history
from domain.assistant.job_states import describe_jobs
from domain.assistant.named_tests import describe_states
from domain.assistant.next_steps import find_next_step
from domain.assistant.project_insights import describe_project
from domain.phrases import count

CAPABILITIES = (
    "It can say why a build failed, whether a test is flaky, since when it fails, how it did before, which tests"
    " failed, how long a build took, and what to do next."
)

LANGUAGE = "It understands English only."
WHICH_PROJECT = (
    "It is not clear which project the question is about. Name a build, a job or a project, or send a `build_id`."
)
NOT_FOUND = "What the question names was not found among what you can read."


def answer(evidence: Evidence) -> Answer:
    """Returns the answer to the evidence's question."""
    question = evidence.question
    if question.kind == "summary":
        return Answer(tuple(summarize(evidence)))
    if question.kind == "chat":
        return _reply_to_message(evidence)
    return answer_diagnosis(evidence)


def answer_without_project(message: str) -> Answer:
    """Returns the reply to a chat message if it is not clear which project the message is about."""
    missing = describe_missing(message)
    return Answer((*((AnswerClaim(missing),) if missing else ()), AnswerClaim(WHICH_PROJECT)))


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
    yield from claims.describe_group(evidence)
    flaky = find_flaky(evidence)
    if build.status == "failed":
        found = diagnose(evidence)
        yield next(claims.describe_cause(found))
        yield from claims.describe_others(found)
        if found.cause.classification != "flaky":
            flaky = [test for test in flaky if claims.has_passed_on_commit(test) or test not in found.tests]
    if flaky:
        verb = "appears" if len(flaky) == 1 else "appear"
        yield AnswerClaim(
            f"{count(len(flaky), 'failed test')} {verb} flaky based on history:"
            f" {', '.join(test.name for test in flaky[: claims.MAX_NAMED])}.",
            tuple(test_ref(test) for test in flaky[: claims.MAX_NAMED]),
        )
    yield from claims.describe_uncounted(build)


def find_flaky(evidence: Evidence) -> list[FailedTest]:
    """Returns the failed tests that are flaky by their history, or that also passed on the commit."""
    return [test for test in evidence.failures if claims.has_passed_on_commit(test) or is_flaky_by_history(test)]


def _explain(evidence: Evidence, build: BuildFacts, found: Diagnosis) -> Iterator[AnswerClaim]:
    yield claims.describe_build(build)
    yield from claims.describe_group(evidence)
    yield from claims.describe_cause(found)
    yield from claims.describe_cause_start(found)
    if found.cause.classification not in ("infra", "flaky", "no_defect"):
        yield from claims.describe_changes(evidence, found.tests)
    yield from claims.describe_tests(found)
    yield from claims.describe_others(found)
    if evidence.groups:  # not if the answer is about some tests only
        yield from claims.describe_unseen(evidence, found)
    if evidence.failures:
        yield from claims.describe_uncounted(build)
    for past in claims.describe_past(evidence, found.tests or evidence.failures):
        yield past
        break
    if found.cause.fix and found.cause.refs:
        yield AnswerClaim(f"{replies.FIX} {found.cause.fix}.", found.cause.refs, is_guess=True)


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


def _reply_to_message(evidence: Evidence) -> Answer:
    """Returns the reply to a chat message. If it names builds that the reply is not about, the reply says so."""
    message, build = evidence.question.message, evidence.build
    intent = find_intent(message)
    reply = _reply(evidence, intent)
    if intent == "unknown" or intent in LISTED_ELSEWHERE:
        return reply
    if evidence.question.build_choice == "offered" or (build is None and find_build_numbers(message)):
        return Answer(tuple(_offer(evidence, message)))
    asked = find_asked_tests(evidence)
    states = tuple(describe_states(evidence.tests))
    if states and intent != "tests" and not asked and (build is None or evidence.question.build_choice):
        return Answer(states)
    if build is None:
        return reply
    reply = msgspec.structs.replace(reply, claims=(*_name_chosen_build(evidence, build, intent), *reply.claims))
    if states and intent != "tests":
        if not any(test.is_failing or test.left_out_build for test in evidence.tests):
            reply = _leave_advice_out(reply)
        reply = msgspec.structs.replace(reply, claims=(*states, *reply.claims))
    numbers = find_build_numbers(message)
    others = [str(number) for number in numbers if number != build.id]
    if others:
        named = f"build {others[0]}" if len(others) == 1 else f"builds {', '.join(others[:-1])} and {others[-1]}"
        claim = AnswerClaim(f"This answer is about build {build.id}, not about {named}.", (build_ref(build.id),))
        step = reply.next_step if build.id in numbers else None
        return msgspec.structs.replace(reply, claims=(claim, *reply.claims), next_step=step)
    return reply


def _leave_advice_out(reply: Answer) -> Answer:
    """Returns `reply`, which is about tests that pass now, without its suggested fix and its next step. Returns it
    unchanged if the tests are flaky, since flaky tests still need a fix and a next step.
    """
    if reply.classification == "flaky":
        return reply
    kept = tuple(claim for claim in reply.claims if not claim.text.startswith(replies.FIX))
    return msgspec.structs.replace(reply, claims=kept, suggested_fix="", next_step=None)


def _offer(evidence: Evidence, message: str) -> Iterator[AnswerClaim]:
    """Yields two claims. The first says that something that the message names does not exist. The second names another
    build that the user may ask about, but does not explain this build, since nobody has asked about it.
    """
    build = evidence.build
    yield AnswerClaim(describe_missing(message, "" if build is None else build.job) or NOT_FOUND)
    if build is None:
        yield AnswerClaim(f"To ask about another one, {replies.NAME_A_BUILD}")
        return
    on = f" on branch {build.branch}" if build.branch else ""
    yield AnswerClaim(
        f"There is build {build.id} of job {build.job}{on}, which {build.status}: ask about it by its number if you"
        " mean that one.",
        (build_ref(build.id),),
    )


def _name_chosen_build(evidence: Evidence, build: BuildFacts, intent: Intent) -> Iterator[AnswerClaim]:
    """Yields claims that say which build the answer is about, if the assistant has chosen the build. Also names the
    other builds of the matrix that did not pass, if the answer to this intent does not name them anyway.
    """
    match evidence.question.build_choice:
        case "":
            return
        case "newest" | "green_jobs":
            why = "the newest build that has ended"
        case "red_job":
            why = "the newest one of a red job"
        case "most_failures":
            why = "the one with the most failed tests among the newest builds of its matrix that did not pass"
        case "newest_failure":
            why = "the newest in which this test failed"
        case "newest_of_branch":
            why = f"the newest of branch {build.branch} that has ended"
        case "offered":
            return
    yield from describe_jobs(evidence.jobs)
    on = f" on branch {build.branch}" if build.branch and evidence.question.build_choice != "newest_of_branch" else ""
    yield AnswerClaim(f"This is about build {build.id} of job {build.job}{on}, {why}.", (build_ref(build.id),))
    if intent in ("flaky", "history", "changed", "duration"):
        yield from claims.describe_group(evidence)


def _reply(evidence: Evidence, intent: Intent) -> Answer:
    build = evidence.build
    if intent == "unknown":
        ref = () if build is None else (build_ref(build.id),)
        return Answer((AnswerClaim(f"The assistant does not know how to answer that. {CAPABILITIES} {LANGUAGE}", ref),))
    if intent in LISTED_ELSEWHERE:
        return Answer(tuple(replies.name_list(evidence, intent)))
    if build is None:
        if evidence.project is None:
            return Answer((AnswerClaim(f"No build was found that the question may be about. {CAPABILITIES}"),))
        about = chain(describe_jobs(evidence.jobs), describe_project(evidence.project))
        return Answer((*replies.limit_to_project(evidence, intent), *about))
    if intent == "summary":
        return Answer(tuple(summarize(evidence)))
    if intent == "duration":
        return Answer(tuple(replies.describe_duration(evidence, build)))
    asked, ref = find_asked_tests(evidence), (build_ref(build.id),)
    if build.status != "failed" and not (build.status == "passed" and asked):
        return Answer(tuple(replies.describe_unfailed(evidence, build)))
    if asked and intent != "tests":
        # Lines of the log may be of other tests.
        evidence = msgspec.structs.replace(evidence, failures=asked, groups=(), excerpts=())
    elif intent != "tests" and (unknown := replies.name_unknown_tests(evidence, build)):
        return Answer((AnswerClaim(unknown, ref),))
    found = diagnose(evidence)
    match intent:
        case "flaky":
            answer_claims = replies.describe_flakiness(evidence, build)
        case "history":
            answer_claims = replies.describe_history(evidence, build)
        case "changed":
            answer_claims = replies.describe_last_good(evidence, build)
        case "tests":
            answer_claims = replies.list_tests(evidence, build)
        case "next":
            answer_claims = replies.recommend(evidence, found)
        case _:
            answer_claims = _explain(evidence, build, found)
    if asked and intent in ("why", "next") and (others := build.failed - len(asked)) > 0:
        verb = "is" if others == 1 else "are"
        left_out = AnswerClaim(f"{count(others, 'other failure')} of the build {verb} left out of this answer.", ref)
        answer_claims = chain(answer_claims, (left_out,))
    return _with_diagnosis(evidence, found, answer_claims)
