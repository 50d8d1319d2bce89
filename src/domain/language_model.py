"""Language models that answer questions to the assistant: which ones the operator of the server allows."""

from collections.abc import Sequence
from typing import Literal

import msgspec

from domain.core.errors import Invalid

Provider = Literal["builtin", "openai"]
"""`builtin` answers by rules and statistics, without a model; `openai` asks a model over the OpenAI API."""
BUILTIN = "builtin"
"""Name that is shown as the model of the provider `builtin`."""
DEFAULT_MONTHLY_TOKENS = 1_000_000
DEFAULT_TIMEOUT_S = 60


class ModelPolicy(msgspec.Struct, frozen=True):
    """Which models the server may ask, and for how many tokens."""

    provider: Provider = "builtin"
    model: str = BUILTIN
    """Name of the model that answers if nobody asks for another one."""
    others: Sequence[str] = ()
    """Names of the other models that may be asked for."""
    monthly_tokens: int = DEFAULT_MONTHLY_TOKENS
    """Largest number of tokens of prompts and answers in a calendar month."""

    def choose(self, wanted: str | None) -> str:
        """Returns the name of the model to ask: `wanted`, or the configured model if `wanted` is None. Raises Invalid
        if the operator does not allow the wanted model.
        """
        if wanted is None or wanted == self.model:
            return self.model
        if wanted not in self.others:
            known = ", ".join([self.model, *self.others])
            raise Invalid.field("model_override", f"is not one of the models that the operator allows: {known}")
        return wanted
