"""Lets a language model answer questions from evidence, within the quota of tokens. Without a model, or if it fails,
the answer is that of rules and statistics.
"""

import asyncio
import secrets
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from datetime import datetime, timedelta
from functools import partial
from typing import Generic, TypeVar

import msgspec
import structlog

from commands.handler import CommandContext
from commands.token_quota import TokenMeter
from domain.assistant.answers import Answer
from domain.assistant.evidence import Evidence
from domain.assistant.lookups import Lookup, plan_lookups
from domain.assistant.model_answers import UnusableAnswer, check_answer, read_lookups
from domain.assistant.prompts import Prompt, build_lookup_prompt, build_prompt
from domain.core.errors import Rejection
from domain.language_model import ModelPolicy, Provider
from integrations.llm_ports import LanguageModel, ModelReply, ModelRequest, ModelUnavailable

T = TypeVar("T")

log = structlog.get_logger()

CALLER = CommandContext("system:assistant")
GRACE = timedelta(seconds=60)
"""Time from the time limit of a call until the call's reservation of tokens expires."""


class Authored(msgspec.Struct, frozen=True):
    """An answer, and what has written it."""

    answer: Answer
    provider: Provider = "builtin"
    """What has written the answer: `builtin` also if a model was asked and failed."""
    model: str = ""
    """Name of the model that was asked; empty if none was."""
    prompt: str | None = None
    """Text that was sent to the model; None if none was."""
    tokens: int = 0
    """Tokens that the call has used; an estimate if the model's server does not say."""
    fell_back: str | None = None
    """A sentence that says why the answer is not the model's; None if it is, or if no model is configured."""


class ChosenLookups(msgspec.Struct, frozen=True):
    """Look-ups to make, and what the choice has cost."""

    lookups: tuple[Lookup, ...]
    prompt: str = ""
    """Text that was sent to the model; empty if none was."""
    tokens: int = 0
    fell_back: str = ""
    """A sentence that says why the choice is not the model's; empty if it is, or if no model is configured."""


@dataclass(frozen=True)
class AnswerWriter:
    policy: ModelPolicy
    language_model: LanguageModel | None
    """The model to ask; None if the provider is `builtin`."""
    meter: TokenMeter
    clock: Callable[[], datetime]
    time_limit: timedelta
    """Time limit of one call of the model."""

    async def answer(
        self, evidence: Evidence, builtin: Answer, *, inquiry_id: str, model: str | None = None
    ) -> Authored:
        """Returns the answer of the model to the question of `evidence`, checked against the evidence. Returns
        `builtin`, the answer of rules and statistics, if the model gives no usable answer. `model` is the name of a
        model that the policy allows; None for the configured model.
        """
        if self.language_model is None:
            return Authored(builtin)
        if evidence.question.build_choice == "offered":
            return Authored(builtin, fell_back="What the question names does not exist, so no model was asked.")
        # In threads, since texts of the evidence take up to 0.5 s to mask, and others of this process must go on.
        prompt = await asyncio.to_thread(build_prompt, evidence, builtin)
        if not prompt.refs:
            return Authored(builtin, fell_back="There are no sources that the model could speak of.")
        check = partial(check_answer, prompt=prompt, evidence=evidence, findings=builtin)
        called = await self._call(self.language_model, prompt, check, inquiry_id, model)
        sent = prompt.text if called.model else None
        if called.value is None:
            return Authored(builtin, "builtin", called.model, sent, called.tokens, called.reason)
        return Authored(called.value, self.policy.provider, called.model, sent, called.tokens)

    async def close(self) -> None:
        """Closes the connections to the model's server."""
        if self.language_model is not None:
            await self.language_model.close()

    async def choose_lookups(
        self, evidence: Evidence, findings: Answer, offered: Sequence[Lookup], *, inquiry_id: str
    ) -> ChosenLookups:
        """Returns which of the offered look-ups to make: those that the model chooses, or else those that are made
        without a model. `findings` are what an AI job has found so far.
        """
        planned = plan_lookups(offered)
        if self.language_model is None or not offered:
            return ChosenLookups(planned)
        prompt = await asyncio.to_thread(build_lookup_prompt, evidence, findings, offered)
        called = await self._call(self.language_model, prompt, partial(read_lookups, offered=offered), inquiry_id)
        sent = prompt.text if called.model else ""
        if called.value is None:
            return ChosenLookups(planned, sent, called.tokens, called.reason)
        return ChosenLookups(called.value, sent, called.tokens)

    async def _call(
        self,
        language_model: LanguageModel,
        prompt: Prompt,
        check: Callable[[str], T],
        inquiry_id: str,
        model: str | None = None,
    ) -> "_Called[T]":
        """Sends a prompt, and returns what `check` makes of the reply, or the reason why there is no usable reply."""
        try:
            chosen = self.policy.choose(model)
            reservation = await self._reserve(inquiry_id, chosen, prompt)
        except Rejection as refused:
            return _Called(None, "", 0, refused.detail)
        request = ModelRequest(chosen, prompt.instructions, prompt.data, prompt.schema, prompt.answer_tokens)
        tokens = 0
        try:
            reply, tokens = await self._ask(language_model, request, reservation)
            return _Called(await asyncio.to_thread(check, reply.text), chosen, tokens)
        except ModelUnavailable as failed:
            log.warning("the language model gave no answer", inquiry=inquiry_id, model=chosen, reason=str(failed))
            return _Called(None, chosen, prompt.max_tokens * failed.has_used_tokens, str(failed))
        except UnusableAnswer as unusable:
            return _Called(None, chosen, tokens, str(unusable))

    async def _reserve(self, inquiry_id: str, model: str, prompt: Prompt) -> "_Reservation":
        name = f"{inquiry_id}-{secrets.token_hex(8)}"
        expires_at = self.clock() + self.time_limit + GRACE
        limit = self.policy.monthly_tokens
        month = await self.meter.reserve(name, model, prompt.max_tokens, expires_at, limit, CALLER)
        return _Reservation(month, name, prompt.max_tokens)

    async def _ask(
        self, model: LanguageModel, request: ModelRequest, reservation: "_Reservation"
    ) -> tuple[ModelReply, int]:
        """Sends a request to the model. Returns the reply and the number of tokens that the call has used, and records
        this number.
        """
        try:
            reply = await model.complete(request)
        except ModelUnavailable as failed:
            await self._record(reservation, reservation.tokens if failed.has_used_tokens else 0, True)
            raise
        except BaseException:
            # Recorded also if this task is cancelled: the model's server may go on, and count the tokens.
            await asyncio.shield(self._record(reservation, reservation.tokens, True))
            raise
        tokens = reservation.tokens if reply.tokens is None else reply.tokens
        await self._record(reservation, tokens, reply.tokens is None)
        return reply, tokens

    async def _record(self, reservation: "_Reservation", tokens: int, is_estimate: bool) -> None:
        await self.meter.record_use(reservation.month, reservation.name, tokens, is_estimate, CALLER)


@dataclass(frozen=True)
class _Reservation:
    month: str
    name: str
    tokens: int


class _Called(msgspec.Struct, Generic[T], frozen=True):
    """Outcome of one call of a model."""

    value: T | None
    """The checked reply; None if there is no usable one."""
    model: str
    """Name of the model; empty if it was not asked."""
    tokens: int
    reason: str = ""
    """A sentence that says why there is no usable reply."""
