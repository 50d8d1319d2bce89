"""Program that turns texts into vectors by the model of the library wordllama. The package of the library contains the
model.

`integrations.embeddings.wordllama` runs it as a process, so that no other process loads the library and the model (some
150 MB). A request on standard input is a list of texts, and the answer on standard output their vectors. Each message
has its length in four bytes before it. The program ends when its standard input ends.

The vector of a text is the sum of the vectors of its tokens, in which frequent tokens count less: S. Arora, Y. Liang
and T. Ma, "A simple but tough-to-beat baseline for sentence embeddings", ICLR 2017. The vocabulary is sorted by how
frequent tokens are, so by Zipf's law the rank of a token stands for its frequency.
"""

import os
import re
import sys
from pathlib import Path
from typing import IO, Any

import msgspec
import numpy as np
from wordllama import WordLlama  # type: ignore[import-untyped]

from domain.failures.failure_codes import describe_codes

DIMENSIONS = 256
FIRST_TOKEN = 259
"""Number of tokens at the beginning of the vocabulary that stand for bytes and control signs. The most frequent word
comes after them.
"""
HALF_RANK = 1_000
"""Rank, by frequency, of the token that has about half the weight of a rare one."""
LOADED = b"loaded"
"""First message of the program: the model is loaded."""

_CASE = re.compile(r"(?<=[a-z0-9])(?=[A-Z])|(?<=[A-Z])(?=[A-Z][a-z])")
_NO_WORD = re.compile(r"[^\w\s]|_|\b\d+\b")


class Model:
    def __init__(self) -> None:
        # The library looks for the tokenizer in a folder that its package does not have, and would download it. It
        # finds the packaged one if the package is its cache.
        package = Path(sys.modules[WordLlama.__module__].__file__ or "").parent
        model = WordLlama.load(dim=DIMENSIONS, cache_dir=package, disable_download=True)
        self._tokenizer: Any = model.tokenizer
        self._tokenizer.no_padding()
        ranks = np.maximum(0, np.arange(len(model.embedding)) - FIRST_TOKEN)
        weights = 1 / (1 + HALF_RANK / (1 + ranks))
        self._tokens = (model.embedding * weights[:, None]).astype("<f4")
        """Vectors of all tokens, by token id, multiplied by the tokens' weights."""

    def embed(self, texts: list[str]) -> bytes:
        """Returns the vectors of the texts, one after the other, as numbers of four bytes."""
        return b"".join(map(self._embed, texts))

    def _embed(self, text: str) -> bytes:
        tokens = self._tokenizer.encode(prepare(text), add_special_tokens=False).ids
        vector = self._tokens[tokens].sum(axis=0)
        length = float(np.linalg.norm(vector))
        return bytes((vector / length if length else vector).astype("<f4").tobytes())


def prepare(text: str) -> str:
    """Returns a text as the tokenizer gets it: its words in lower case, then descriptions of the error codes in the
    text. Numbers and signs are left out, and words such as `testCart` are divided.
    """
    words = _NO_WORD.sub(" ", _CASE.sub(" ", f"{text} {describe_codes(text)}"))
    return " ".join(words.lower().split())


def main() -> None:
    requests, answers = sys.stdin.buffer, os.fdopen(os.dup(sys.stdout.fileno()), "wb")
    os.dup2(sys.stderr.fileno(), sys.stdout.fileno())  # what the library prints is no answer
    model = Model()
    _send(answers, LOADED)
    while request := _receive(requests):
        _send(answers, model.embed(msgspec.msgpack.decode(request, type=list[str])))


def _receive(stream: IO[bytes]) -> bytes:
    """Returns the next message; empty bytes at the end of the stream."""
    size = int.from_bytes(stream.read(4), "big")
    message = stream.read(size)
    return message if len(message) == size else b""


def _send(stream: IO[bytes], message: bytes) -> None:
    stream.write(len(message).to_bytes(4, "big") + message)
    stream.flush()


if __name__ == "__main__":
    main()
