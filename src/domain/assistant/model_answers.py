"""Checks what a language model has answered against the evidence that it got.

Only what the cited sources support stays a statement. The rest is dropped or marked as a guess. Numbers, the
classification, the confidence and the next step are those that rules have found. If rules found no classification, that
of the model counts, with a low confidence. What the rules say and the model leaves out stays in the answer: a model can
add to it and word it, but take nothing away.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

import msgspec

from domain.assistant.answers import Answer, AnswerClaim
from domain.assistant.builtin_answers import CAPABILITIES
from domain.assistant.diagnosis_claims import PROBABLE, end_sentence
from domain.assistant.evidence import Evidence
from domain.assistant.lookups import MAX_LOOKUPS, Lookup
from domain.assistant.prompts import MAX_CLAIMS, MAX_TEXT, Prompt
from domain.assistant.sensitive_text import mask_secrets, remove_hidden
from domain.triage import CLASSIFICATIONS, Classification

MAX_ANSWER = 20_000
"""Largest number of characters of a model's answer that are read."""
MAX_READ = 5 * MAX_TEXT
"""Largest number of characters that are read of a claim, a root cause or a suggested fix. Links and markup, which are
removed afterwards, count.
"""
MAX_GUESSES = 2
"""Largest number of guesses that are shown in one answer."""
MIN_SUPPORT = 0.5
"""Smallest share of the words of a claim that its sources must contain."""
STEM = 5
"""Number of letters at the beginning by which words are compared, so that `failed` equals `failure`."""
MAX_GUESSED_CONFIDENCE = 0.4
"""Largest confidence in a classification that only the model has found."""
GUESS = "Not supported by the sources: "

_LINK = re.compile(r"(?i)\b(?:[a-z][a-z0-9+.-]{1,20}://|www\.|mailto:|javascript:|data:)[^\s)\]>\"']*")
_MARKDOWN_LINK = re.compile(r"!?\[([^\[\]\n]{0,300})\]\([^()\n]{0,2000}\)")
_TAG = re.compile(r"</?[A-Za-z!][^<>\n]{0,200}>")
_MARKUP = re.compile(r"[`*~|]|^\s*(?:#+|>|[-+])\s+|^\s*\d+\.\s+")
_COMMAND = re.compile(
    r"(?i)\$\(|&&|\brm\s+-|\bsudo\s|\bcurl\s+\S|\bwget\s+\S|\bchmod\s|\beval\s*\(|\bbase64\s|\|\s*(?:ba|z)?sh\b"
    r"|\bpip3? install\b|\bnpm i(?:nstall)?\s"
)
_INSTRUCTION = re.compile(
    r"(?i)\b(?:ignore|disregard|forget|override)\b.{0,40}\b(?:instructions?|rules?|prompts?|above|previous)\b"
    r"|\bsystem prompt\b|\bas an ai\b|\blanguage model\b"
)
"""Matches instructions to a language model, and statements about one. A model copies them from texts that somebody
wrote into a log.
"""
_PASSED = re.compile(
    r"(?i)\bbuild(?: \d+)?,?(?: has| have| was| is| actually){0,2} (?:passed|succeeded|success\w*|green)\b"
    r"|\bbuild(?: \d+)? (?:did not|didn't|never) fail"
)
_CLASS = re.compile(
    r"(?i)\b(?:flak|infrastruct|intermittent|(?:product|test) (?:bug|defect)|defect of (?:the|a) (?:product|test)"
    r"|no defect)"
)
"""Matches names of classifications. Rules choose the classification, so a model may only name one that its sources
name.
"""
_NOT = re.compile(r"(?i)\b(?:not|no|never|none|cannot|without)\b|n['’]t\b")
_SENTENCE_END = re.compile(r"(?<=[.!?]) +")
_NUMBER = re.compile(r"\d+(?:[.,]\d+)*")
_WORD = re.compile(r"[^\W\d_]{4,}")
_COMMON = frozenset(
    re.findall(
        r"\w+",
        "about after again also because been before being between both build builds caused cause could does during each"
        " fail failed fails failure failures from have into itself likely more most only other over probably same seems"
        " shows since some such test tests than that their them then there these they this those through under were"
        " what when where which while will with would your",
    )
)
"""Common words, which are left out when a claim is compared with its sources."""


T = TypeVar("T")


class UnusableAnswer(Exception):
    """A model's answer that cannot be shown. The message is a sentence that says why."""


class _ModelClaim(msgspec.Struct):
    text: str
    sources: list[int | str] = []
    """Sources by their numbers in the prompt, or by their references. A guess has none."""


class _ModelChoice(msgspec.Struct):
    lookups: list[str]


class _ModelReply(msgspec.Struct):
    claims: list[_ModelClaim]
    classification: str | None = None
    root_cause: str = ""
    suggested_fix: str = ""


def check_answer(text: str, prompt: Prompt, evidence: Evidence, findings: Answer) -> Answer:
    """Returns the parts of a model's answer that may be shown, completed by `findings`, the answer of rules and
    statistics. Raises UnusableAnswer if the model's answer has no claim that its sources support.
    """
    reply = _parse(text, _ModelReply)
    texts = {source.ref: f"{source.ref} {source.text}" for source in prompt.sources}
    found = _claim_texts(findings)
    refs: dict[int | str, str] = dict(enumerate(texts, 1)) | {ref: ref for ref in texts}
    has_failed = evidence.build is not None and evidence.build.status == "failed"
    checked = [
        claim
        for one in reply.claims[:MAX_CLAIMS]
        if not (has_failed and _PASSED.search(one.text))
        and (claim := _check_claim(one, refs, texts, found)) is not None
    ]
    supported = _without_repetitions([claim for claim in checked if not claim.is_guess], ())
    if not supported:
        raise UnusableAnswer("The sources support nothing of the model's answer.")
    everything = " ".join([*texts.values(), *found.values(), findings.root_cause, findings.suggested_fix])
    classification, confidence = _choose_class(reply.classification if has_failed else None, findings)
    return msgspec.structs.replace(
        findings,
        claims=_merge_claims(supported, [claim for claim in checked if claim.is_guess], findings),
        classification=classification,
        confidence=confidence,
        root_cause=_choose_text(reply.root_cause, findings, everything),
        suggested_fix=_choose_text(reply.suggested_fix, findings, everything, is_advice=True),
    )


def read_lookups(text: str, offered: Sequence[Lookup]) -> tuple[Lookup, ...]:
    """Returns the look-ups that a model has chosen, each once, MAX_LOOKUPS at most. Leaves out those that were not
    offered. Raises UnusableAnswer if the model has named look-ups, but none that was offered.
    """
    known = {lookup.name: lookup for lookup in offered}
    named = _parse(text, _ModelChoice).lookups
    chosen = tuple(known[name] for name in dict.fromkeys(named) if name in known)
    if named and not chosen:
        raise UnusableAnswer("The model chose none of the look-ups that were offered.")
    return chosen[:MAX_LOOKUPS]


def _parse(text: str, form: type[T]) -> T:
    if len(text) > MAX_ANSWER:
        raise UnusableAnswer(f"The model's answer is longer than {MAX_ANSWER:,} characters.")
    begin, end = text.find("{"), text.rfind("}")
    if begin < 0 or end < begin:
        raise UnusableAnswer("The model's answer is no JSON object.")
    try:
        return msgspec.json.decode(text[begin : end + 1], type=form)
    except (msgspec.MsgspecError, RecursionError, UnicodeError):
        raise UnusableAnswer("The model's answer is no JSON object of the wanted form.") from None


def _claim_texts(findings: Answer) -> Mapping[str, str]:
    """Returns reference -> the texts of all claims of the findings that cite it."""
    texts: dict[str, str] = {}
    for claim in findings.claims:
        for ref in claim.sources:
            texts[ref] = f"{texts.get(ref, '')} {claim.text}"
    return texts


def _check_claim(
    claim: _ModelClaim, known: Mapping[int | str, str], texts: Mapping[str, str], found: Mapping[str, str]
) -> AnswerClaim | None:
    """Returns the model's claim as it may be shown: a statement if its sources support it, else a guess. Returns None
    if the claim may not be shown at all.
    """
    text = clean_text(claim.text)
    if not text or _COMMAND.search(claim.text) or _INSTRUCTION.search(text):
        return None
    refs = tuple(dict.fromkeys(known[source] for source in claim.sources if source in known))
    support = " ".join([*(texts[ref] for ref in refs), *(found.get(ref, "") for ref in refs)])
    anything = " ".join([*texts.values(), "not"])  # a guess may say that something is not known
    if not _has_facts_of(text, support if refs else anything):
        return None
    if refs and _retells(support, text):
        return AnswerClaim(text if text.endswith("…") else end_sentence(text), refs)
    if claim.sources and not refs:
        return None  # it cites what does not exist
    return AnswerClaim(f"{GUESS}{text}", (), is_guess=True)


def _merge_claims(
    supported: Sequence[AnswerClaim], guesses: Sequence[AnswerClaim], findings: Answer
) -> tuple[AnswerClaim, ...]:
    """Returns the claims of an answer. First come the model's claims that say more than the findings, then the findings
    that these claims do not cover. But if the model's claims leave out the root cause that the findings call probable,
    all findings come first. At most MAX_GUESSES guesses come last.
    """
    more = _without_repetitions(supported, findings.claims)
    if more and _is_enough(_join(more), findings.root_cause, findings):
        claims = (*more, *(claim for claim in findings.claims if not _is_covered(claim, more)))
    else:
        found = _join(findings.claims)
        claims = (*findings.claims, *(claim for claim in more if not _retells(found, claim.text)))
    shown = _join(claims)
    new = [claim for claim in guesses if not _retells(shown, claim.text.removeprefix(GUESS))]
    return (*claims, *_without_repetitions(new, ())[:MAX_GUESSES])


def _join(claims: Sequence[AnswerClaim]) -> str:
    return " ".join(claim.text for claim in claims)


def _without_repetitions(claims: Sequence[AnswerClaim], others: Sequence[AnswerClaim]) -> Sequence[AnswerClaim]:
    """Returns the claims without repetitions. A claim is a repetition if all of its words, numbers and names of
    classifications are in one earlier claim, or in one of `others`.
    """
    kept: list[AnswerClaim] = []
    for claim in claims:
        words, facts = _words(claim.text), set(_facts(claim.text))
        if not any(words <= _words(one.text) and facts <= set(_facts(one.text)) for one in (*kept, *others)):
            kept.append(claim)
    return kept


def _is_enough(text: str, found: str, findings: Answer) -> bool:
    """Returns whether a text says what `found`, a text of the findings, says. Also True if the findings are not
    probable.
    """
    return findings.confidence < PROBABLE or (_has_facts_of(found, text) and _retells(text, found))


def _is_covered(found: AnswerClaim, supported: Sequence[AnswerClaim]) -> bool:
    """Returns whether claims of the model cover a claim of the findings: together they have its sources, its numbers
    and at least MIN_SUPPORT of its words. Any claims cover the list of what can be asked (CAPABILITIES).
    """
    citing = [claim for claim in supported if not found.sources or set(found.sources) & set(claim.sources)]
    refs = {ref for claim in citing for ref in claim.sources}
    text = _join(citing)
    return CAPABILITIES in found.text or (
        refs.issuperset(found.sources) and _has_facts_of(found.text, text) and _retells(text, found.text)
    )


def _choose_class(named: str | None, findings: Answer) -> tuple[Classification | None, float]:
    if findings.classification is not None:
        return findings.classification, findings.confidence
    for classification in CLASSIFICATIONS:
        if named == classification:
            return classification, min(MAX_GUESSED_CONFIDENCE, findings.confidence or MAX_GUESSED_CONFIDENCE)
    return None, findings.confidence


def _choose_text(text: str, findings: Answer, support: str, *, is_advice: bool = False) -> str:
    """Returns the root cause that the model gives, or with `is_advice` its suggested fix. Returns the text of the
    findings instead if `support` does not confirm the model's text. If the findings are probable, the model's text must
    also say what the text of the findings says. A suggested fix may have words that are not in `support`, but no other
    numbers, and must not just repeat the root cause.
    """
    shown = clean_text(text)
    found = findings.suggested_fix if is_advice else findings.root_cause
    if not shown or _COMMAND.search(text) or _INSTRUCTION.search(shown) or not _has_facts_of(shown, support):
        return found
    is_borne = not _retells(findings.root_cause, shown) if is_advice else _retells(support, shown)
    return shown if is_borne and _is_enough(shown, found, findings) else found


def clean_text(text: str) -> str:
    """Returns a model's text as one line of plain text: without links, markup, invisible characters, repeated
    sentences, and a last sentence that is cut off.
    """
    shown = " ".join(remove_hidden(text[:MAX_READ]).split())
    for pattern, replacement in ((_MARKDOWN_LINK, r"\1"), (_LINK, "(link)"), (_TAG, ""), (_MARKUP, "")):
        shown = pattern.sub(replacement, shown)
    shown = " ".join(mask_secrets(shown).replace("<", "").replace(">", "").split())
    sentences = list(dict.fromkeys(_SENTENCE_END.split(shown[:MAX_TEXT])))
    is_cut = len(text) == MAX_TEXT or len(shown) > MAX_TEXT
    if is_cut and not sentences[-1].endswith((".", "!", "?")):
        sentences[-1] = f"{sentences[-1][: MAX_TEXT - 1].rstrip()}…"
        sentences = sentences[:-1] or sentences
    return " ".join(sentences)


def _has_facts_of(text: str, support: str) -> bool:
    """Returns whether `support` has all numbers and names of classifications of the text, and a negation if the text
    has one.
    """
    return set(_facts(text)) <= set(_facts(support))


def _facts(text: str) -> Iterable[str]:
    if _NOT.search(text):
        yield "not"
    yield from map(str.lower, _CLASS.findall(text))
    for found in _NUMBER.findall(text):
        number = found.replace(",", "")
        yield number
        yield from number.split(".")


def _retells(text: str, other: str) -> bool:
    """Returns whether a text has at least MIN_SUPPORT of the words of `other`. True if `other` has no words."""
    words = _words(other)
    known = {word[:STEM] for word in map(str.lower, _WORD.findall(text))}
    return len(words & known) >= MIN_SUPPORT * len(words)


def _words(text: str) -> set[str]:
    return {word[:STEM] for word in map(str.lower, _WORD.findall(text)) if word not in _COMMON}
