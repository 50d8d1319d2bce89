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
    """Instructions to the model. They are texts of the server itself, never of users or programs."""
    data: str
    """Data that the model applies the instructions to. They may have texts of users and programs."""
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
        """Returns the model's answer. Takes a limited time. May ask the model several times, but only one of these
        requests uses tokens. May be called many times at once. Raises ModelUnavailable.
        """
        ...

    async def close(self) -> None: ...
