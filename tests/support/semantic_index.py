"""Does the work of the worker of semantic search, for tests whose server has no workers."""

import asyncio

from integrations.embedding_ports import Embeddings
from testhide.processes import core
from tests.support.server import Server
from workers.semantic_index import SemanticIndex


def index_failures(server: Server, model: Embeddings | None) -> None:
    """Indexes all failures in the log, with vectors by the model if there is one."""

    async def run() -> None:
        async with core(server.settings, pool_size=3) as parts:
            worker = SemanticIndex(parts.pool, parts.log, model)
            try:
                while await worker.read_next_batch():
                    pass
                while await worker.add_vectors():
                    pass
            finally:
                if model is not None:
                    model.close()

    asyncio.run(run())
