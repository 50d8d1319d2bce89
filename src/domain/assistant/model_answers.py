"""Checks what a language model has answered against the evidence that it got.

Only what the cited sources support stays a statement. The rest is dropped or marked as a guess. Numbers, the class that
rules have found, the confidence in it and the next step are those of the rules, not of the model.
"""

import re
from collections.abc import Iterable, Mapping, Sequence
from typing import TypeVar

import msgspec

from domain.assistant.answers import Answer, AnswerClaim
from domain.assistant.evidence import Evidence
from domain.assistant.lookups import MAX_LOOKUPS, Lookup
from domain.assistant.prompts import MAX_CLAIMS, Prompt
from domain.assistant.sensitive_text import mask_secrets, remove_hidden
from domain.triage import CLASSIFICATIONS, Classification

MAX_ANSWER = 20_000
"""Largest number of characters of a model's answer that are read."""
MAX_CLAIM = 600
"""Largest number of characters of a claim, a root cause or a suggested fix."""
MAX_READ = 5 * MAX_CLAIM
"""Number of characters of such a text, with links and markup, that are read."""
MAX_GUESSES = 2
"""Largest number of guesses that are shown of an answer."""
MIN_SUPPORT = 0.5
"""Smallest share of the words of a claim that its sources must contain."""
STEM = 5
"""Number of characters by which two words count as the same, so that `failed` is `failure`."""
MAX_GUESSED_CONFIDENCE = 0.4
"""Largest confidence in a class that only the model has found."""
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
"""Texts about the model itself, which it takes from instructions in logs."""
_PASSED = re.compile(
    r"(?i)\bbuild(?: \d+)?,?(?: has| have| was| is| actually){0,2} (?:passed|succeeded|success\w*|green)\b"
)
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
"""Words that say nothing about what a claim is about."""


T = TypeVar("T")


class UnusableAnswer(Exception):
    """A model's answer that cannot be shown. The message is a sentence that says why."""


class _ModelClaim(msgspec.Struct):
    text: str
    sources: list[str] = []
    is_guess: bool = False


class _ModelChoice(msgspec.Struct):
    lookups: list[str]


class _ModelReply(msgspec.Struct):
    claims: list[_ModelClaim]
    classification: str | None = None
    root_cause: str = ""
    suggested_fix: str = ""


def check_answer(text: str, prompt: Prompt, evidence: Evidence, findings: Answer) -> Answer:
    """Returns what of a model's answer may be shown. `findings` are what rules and statistics answer. Raises
    UnusableAnswer if the answer has no claim that its sources support.
    """
    reply = _parse(text, _ModelReply)
    texts = {source.ref: f"{source.ref} {source.text}" for source in prompt.sources}
    found = _claim_texts(findings)
    has_failed = evidence.build is not None and evidence.build.status == "failed"
    checked = [
        claim
        for one in reply.claims[:MAX_CLAIMS]
        if not (has_failed and _PASSED.search(one.text)) and (claim := _check_claim(one, texts, found)) is not None
    ]
    checked = list({claim.text: claim for claim in checked}.values())  # small models repeat themselves
    supported = [claim for claim in checked if not claim.is_guess]
    if not supported:
        raise UnusableAnswer("The sources support nothing of the model's answer.")
    guesses = [claim for claim in checked if claim.is_guess][:MAX_GUESSES]
    everything = " ".join([*texts.values(), *found.values(), findings.root_cause, findings.suggested_fix])
    classification, confidence = _choose_class(reply.classification if has_failed else None, findings)
    return msgspec.structs.replace(
        findings,
        claims=tuple(claim for claim in checked if not claim.is_guess or claim in guesses),
        classification=classification,
        confidence=confidence,
        root_cause=_choose_text(reply.root_cause, findings.root_cause, everything),
        suggested_fix=_choose_text(reply.suggested_fix, findings.suggested_fix, everything, is_advice=True),
    )


def read_lookups(text: str, offered: Sequence[Lookup]) -> tuple[Lookup, ...]:
    """Returns the look-ups that a model has chosen, each once, MAX_LOOKUPS at most. Leaves out those that were not
    offered. Raises UnusableAnswer if the model has named no others.
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
    """Returns, for each reference, what the findings say by it."""
    texts: dict[str, str] = {}
    for claim in findings.claims:
        for ref in claim.sources:
            texts[ref] = f"{texts.get(ref, '')} {claim.text}"
    return texts


def _check_claim(claim: _ModelClaim, texts: Mapping[str, str], found: Mapping[str, str]) -> AnswerClaim | None:
    """Returns the claim as it may be shown; None if it is dropped."""
    text = clean_text(claim.text)
    if not text or _COMMAND.search(claim.text) or _INSTRUCTION.search(text):
        return None
    refs = tuple(ref for ref in dict.fromkeys(claim.sources) if ref in texts)
    support = " ".join([*(texts[ref] for ref in refs), *(found.get(ref, "") for ref in refs)])
    if not _has_numbers_of(text, support if refs else " ".join(texts.values())):
        return None
    if refs and not claim.is_guess and _support_of(text, support) >= MIN_SUPPORT:
        return AnswerClaim(text, refs)
    if claim.sources and not refs:
        return None  # it cites what does not exist
    return AnswerClaim(f"{GUESS}{text}", (), is_guess=True)


def _choose_class(named: str | None, findings: Answer) -> tuple[Classification | None, float]:
    if findings.classification is not None:
        return findings.classification, findings.confidence
    for classification in CLASSIFICATIONS:
        if named == classification:
            return classification, min(MAX_GUESSED_CONFIDENCE, findings.confidence or MAX_GUESSED_CONFIDENCE)
    return None, findings.confidence


def _choose_text(text: str, otherwise: str, support: str, *, is_advice: bool = False) -> str:
    """Returns the model's text if the support bears it, and else the text of the findings. Advice may have words that
    no source has, but no numbers.
    """
    shown = clean_text(text)
    if not shown or _COMMAND.search(text) or _INSTRUCTION.search(shown) or not _has_numbers_of(shown, support):
        return otherwise
    return shown if is_advice or _support_of(shown, support) >= MIN_SUPPORT else otherwise


def clean_text(text: str) -> str:
    """Returns a model's text as plain text in one line: without links, markup, and characters that nobody sees."""
    shown = " ".join(remove_hidden(text[:MAX_READ]).split())
    for pattern, replacement in ((_MARKDOWN_LINK, r"\1"), (_LINK, "(link)"), (_TAG, ""), (_MARKUP, "")):
        shown = pattern.sub(replacement, shown)
    shown = " ".join(mask_secrets(shown).replace("<", "").replace(">", "").split())
    return shown if len(shown) <= MAX_CLAIM else shown[: MAX_CLAIM - 1].rstrip() + "…"


def _has_numbers_of(text: str, support: str) -> bool:
    """Returns whether each number of the text is in the support."""
    return set(_numbers(text)) <= set(_numbers(support))


def _numbers(text: str) -> Iterable[str]:
    for found in _NUMBER.findall(text):
        number = found.replace(",", "")
        yield number
        yield from number.split(".")


def _support_of(text: str, support: str) -> float:
    """Returns the share of the words of a text that the support contains; 1 for a text without such words."""
    words = {word[:STEM] for word in map(str.lower, _WORD.findall(text)) if word not in _COMMON}
    known = {word[:STEM] for word in map(str.lower, _WORD.findall(support))}
    return len(words & known) / len(words) if words else 1.0
