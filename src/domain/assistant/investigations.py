"""Conclusions of AI jobs: what a job has found, the cause of the failure that matters most, and further look-ups."""

from collections.abc import Sequence

import msgspec

from domain.assistant import diagnosis_claims as claims
from domain.assistant.answers import MAX_SOURCE_TEXT, Answer, AnswerClaim, Source
from domain.assistant.diagnoses import diagnose
from domain.assistant.evidence import Evidence, build_ref, cut, test_ref
from domain.assistant.lookups import LookedUp
from domain.assistant.next_steps import find_next_step


def add_cause(found: Answer, lead: Evidence) -> Answer:
    """Returns the findings of an AI job, completed by the cause of the failure that matters most: the result that the
    question of `lead` is about. The classification, confidence, suggested fix and next step are those of a diagnosis of
    this failure alone. But a next step that the job itself has found stays. Returns the findings unchanged if `lead`
    does not contain the failure.
    """
    tests = tuple(test for test in lead.failures if test.result_id == lead.question.result_id)
    if lead.build is None or not tests:
        return found
    narrowed = msgspec.structs.replace(lead, failures=tests, groups=(), excerpts=())
    diagnosis = diagnose(narrowed)
    looked = AnswerClaim(
        f"Of these, {tests[0].name} was looked at, as it failed in build {lead.build.id}.",
        (test_ref(tests[0]), build_ref(lead.build.id)),
    )
    return msgspec.structs.replace(
        found,
        claims=(
            *found.claims,
            looked,
            *claims.describe_cause(diagnosis),
            *claims.describe_changes(narrowed, tests),
        ),
        classification=diagnosis.cause.classification,
        root_cause=diagnosis.cause.root_cause,
        confidence=diagnosis.confidence,
        suggested_fix=diagnosis.cause.fix,
        next_step=found.next_step or find_next_step(narrowed, diagnosis),
    )


def add_lookups(found: Answer, looked: Sequence[LookedUp]) -> Answer:
    """Returns the findings of an AI job with one more claim for each look-up."""
    more = [AnswerClaim(one.text, tuple(source.ref for source in one.sources) or (one.lookup.ref,)) for one in looked]
    return msgspec.structs.replace(found, claims=(*found.claims, *more))


def collect_sources(found: Answer, lead: Evidence | None, looked: Sequence[LookedUp]) -> tuple[Source, ...]:
    """Returns all sources that the findings of an AI job cite, each reference once. The text of a source that nobody
    has looked up consists of the claims that cite it.
    """
    texts: dict[str, str] = {}
    for claim in found.claims:
        for ref in claim.sources:
            texts[ref] = f"{texts[ref]} {claim.text}" if ref in texts else claim.text
    for source in (*(() if lead is None else lead.sources), *(source for one in looked for source in one.sources)):
        texts[source.ref] = source.text
    return tuple(Source(ref, cut(text, MAX_SOURCE_TEXT)) for ref, text in texts.items())
