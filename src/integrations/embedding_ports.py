"""Interface to a model that turns texts into vectors (embeddings). Texts with similar meanings have similar vectors."""

from collections.abc import Sequence
from typing import Protocol


class EmbeddingsUnavailable(Exception):
    """The model cannot be used now. The message says why."""


class Embeddings(Protocol):
    """Turns texts into vectors of length 1, so that the cosine of two vectors says how similar their texts are."""

    @property
    def model(self) -> str:
        """Name of the model. Vectors of different models cannot be compared."""
        ...

    async def embed(self, texts: Sequence[str]) -> list[list[float]]:
        """Returns the vector of each text. May be called many times at once. Raises EmbeddingsUnavailable."""
        ...

    def close(self) -> None:
        """Frees the memory and processes of the model. A later call of `embed` loads the model again."""
        ...
