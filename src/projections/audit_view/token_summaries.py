"""Summaries of events about tokens of language models. `summaries.py` says what a summary is."""

from collections.abc import Callable, Mapping
from typing import Any

from domain import token_quota
from domain.core.events import Event

TOKEN_SUMMARIES: Mapping[type[Event], str | Callable[[Any], str]] = {
    token_quota.TokensReserved: "reserved {tokens:token} of {month} for a call of the model{model: “}",
    token_quota.TokensSettled: "counted {tokens:token} of {month} for a call of a model",
    token_quota.TokensReleased: "released tokens of {month} that a call of a model had reserved and not used",
}
