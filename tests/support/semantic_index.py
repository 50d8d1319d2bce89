"""Does the work of the worker of semantic search, for tests whose server has no workers."""

import asyncio
from types import TracebackType

from integrations.embedding_ports import Embeddings
from testhide.processes import core
from tests.support.server import Server
from workers.semantic_index import SemanticIndex


class FailureIndexer:
    """Indexes the failures of servers, with vectors by the model if there is one. The model is loaded once, which takes
    a second of CPU time, and closed at the end.
    """

    def __init__(self, model: Embeddings | None) -> None:
        self._model = model
        self._runner = asyncio.Runner()  # of one event loop, since a model is used in one only

    def __enter__(self) -> "FailureIndexer":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        if self._model is not None:
            self._model.close()
        self._runner.close()

    def index(self, server: Server) -> None:
        """Indexes all failures in the log."""
        self._runner.run(self._index(server))

    async def _index(self, server: Server) -> None:
        async with core(server.settings, pool_size=3) as parts:
            worker = SemanticIndex(parts.pool, parts.log, self._model)
            while await worker.read_next_batch():
                pass
            while await worker.add_vectors():
                pass


def index_words(server: Server) -> None:
    """Indexes all failures in the log without vectors."""
    with FailureIndexer(None) as indexer:
        indexer.index(server)
