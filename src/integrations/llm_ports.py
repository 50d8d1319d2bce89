"""Interface to a language model."""

from typing import Any, Protocol

import msgspec


class ModelUnavailable(Exception):
    """The model gave no answer. The message is a sentence that says why. `has_used_tokens` says whether the call may
    have used tokens nevertheless.
    """

    def __init__(self, message: str, *, has_used_tokens: bool) -> None:
        super().__init__(message)
        self.has_used_tokens = has_used_tokens


class ModelRequest(msgspec.Struct, frozen=True):
    model: str
    """Name of the model."""
    instructions: str
    """What the model is to do; of the server itself, never of users or programs."""
    data: str
    """What the model is to do it with."""
    schema: dict[str, Any]
    """JSON schema of the answer. The model may ignore it."""
    max_tokens: int
    """Largest number of tokens of the answer."""


class ModelReply(msgspec.Struct, frozen=True):
    text: str
    tokens: int | None
    """Number of tokens of the request and the answer; None if the model's server does not say."""


class LanguageModel(Protocol):
    """Answers requests by text."""

    async def complete(self, request: ModelRequest) -> ModelReply:
        """Returns the answer. Makes one call that uses tokens at most. Takes a limited time. May be called many times
        at once. Raises ModelUnavailable.
        """
        ...

    async def close(self) -> None: ...
