"""Shows which language model answers questions, and how many tokens it has used in this month."""

from collections.abc import Mapping
from datetime import datetime

import msgspec
from litestar import Controller, get

from api.http.permissions import ANY_USER
from api.http.request_context import RequestContext
from domain.language_model import Provider
from domain.licenses import Capability
from store.clock import utcnow

FEATURES: Mapping[str, Capability] = {"chat": "ai_chat", "investigation": "ai_chat", "test_health": "ai_test_health"}
"""Name of a feature, as in `ModelStatus.features` -> capability that a licence must have for the feature."""


class ModelStatus(msgspec.Struct):
    provider: Provider
    """Provider of the answers: `builtin` for rules and statistics, `openai` for a model behind the OpenAI API."""
    model: str
    """Name of the model; `builtin` if there is none."""
    available: bool
    """Whether the provider can be asked now. False once a model has used up the tokens of the month: rules and
    statistics then answer in its place.
    """
    features: list[str]
    """Features whose answers come from this provider: some of `chat`, `investigation` and `test_health`."""


class TokenQuota(msgspec.Struct):
    tokens_used: int
    """Number of tokens of prompts and answers in this month, by all users. A call that is under way counts with the
    most tokens that it can use.
    """
    tokens_limit: int
    """Largest number of tokens in a month."""
    resets_at: datetime
    """First moment of the next month, in UTC."""
    percent_used: float
    """Share of the limit that is used, in percent, with one decimal."""


class LanguageModelController(Controller):
    path = "/ai"
    tags = ["AI Chat & Investigation"]

    @get("/llm/status", guards=[ANY_USER])
    async def get_model_status(self, ctx: RequestContext) -> ModelStatus:
        """Returns which provider answers questions to the assistant, and whether it can be asked now."""
        policy, license, now = ctx.services.model_policy, ctx.services.license, utcnow()
        is_available = True
        if policy.provider != "builtin":
            used, _ = await ctx.services.tokens.count()
            is_available = used < policy.monthly_tokens
        features = [feature for feature, capability in FEATURES.items() if license.has(capability, now)]
        return ModelStatus(policy.provider, policy.model, is_available, features)

    @get("/quota", guards=[ANY_USER])
    async def get_token_quota(self, ctx: RequestContext) -> TokenQuota:
        """Returns how many tokens of language models the server has used in this month, and how many it may use."""
        used, resets_at = await ctx.services.tokens.count()
        limit = ctx.services.model_policy.monthly_tokens
        return TokenQuota(used, limit, resets_at, round(100 * used / limit, 1))
