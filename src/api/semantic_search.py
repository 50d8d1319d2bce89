"""Semantic search: finds failures by their meaning."""

from collections.abc import Sequence
from typing import Annotated, Literal

import msgspec
import structlog
from litestar import Controller, get
from litestar.params import Parameter

from api.http.permissions import CAN_READ
from api.http.repeated_checks import check_after
from api.http.request_context import RequestContext
from api.http.types import MAX_ID
from api.projects import find_visible_project
from api.search import MAX_QUERY
from domain.core.errors import NotFound
from domain.rank_fusion import fuse
from domain.search import find_query_words, make_snippet
from integrations.embedding_ports import EmbeddingsUnavailable
from projections import test_health
from store.tables import passages
from store.tables.passages import PassageRank, PassageType

log = structlog.get_logger()

MAX_RESULTS = 50
"""Largest number of results."""
RANKED = 100
"""Number of passages that are taken from the top of each ranking, by words and by vectors, before the two rankings are
joined.
"""
MIN_SIMILARITY = 0.1
"""Lowest cosine similarity with which a text counts as similar to the query."""
_STOP_WORDS = (
    "a an and any are as at be been but by can did do does for from had has have how i in is it its me my of on or our"
    " so that the their there these this to was we were what when where which who why will with you"
)
STOP_WORDS = frozenset(_STOP_WORDS.split())
"""English words that say nothing about a failure."""


class SemanticResult(msgspec.Struct):
    type: PassageType
    id: int
    """Id of the build, or of the test case for the type `test`."""
    score: float
    """From 0 to 1. The best results have the highest scores."""
    snippet: str
    """Part of the text that was found; dots stand for what is left out."""
    build_id: int
    """Id of the build with the newest failure that has this text."""
    result_id: int | None
    """Id of the newest failed result that has this text; null for the types `build` and `log`."""


class SemanticResults(msgspec.Struct):
    results: list[SemanticResult]
    mode: Literal["hybrid", "text"]
    """`hybrid` if results were found by their words and by their meaning. `text` if they were found by their words
    only, because the server has no pgvector or no model, or the model did not answer.
    """


class SemanticSearchController(Controller):
    path = "/ai/search"
    tags = ["AI Chat & Investigation"]

    @get(opt={"problems": (NotFound,)}, guards=[CAN_READ])
    async def search_by_meaning(
        self,
        ctx: RequestContext,
        q: Annotated[
            str, Parameter(min_length=2, max_length=MAX_QUERY, description="Words that describe what to search for")
        ],
        project_id: Annotated[int, Parameter(ge=1, le=MAX_ID, description="Project to search")],
        limit: Annotated[int, Parameter(ge=1, le=MAX_RESULTS, description="Max results")] = 10,
        type: Annotated[PassageType | None, Parameter(description="Only results of this type")] = None,
    ) -> SemanticResults:
        """Searches failure messages of tests, details of failed builds, and error lines of their logs, by words and by
        meaning: `database timeout` finds `connection to postgres timed out`. A query of common words alone, such as
        `the`, finds nothing. docs/search.md says how texts are found and ranked.
        """
        await find_visible_project(ctx, project_id)
        words = [word for word in find_query_words(q) if word not in STOP_WORDS]
        vector = await check_after(ctx.request, self._embed(ctx, q))
        mode: Literal["hybrid", "text"] = "text" if vector is None else "hybrid"
        if not words:
            return SemanticResults([], mode)  # every passage would be about as near as any other
        async with ctx.reading() as connection:
            await find_visible_project(ctx, project_id)  # once more, since the model may have taken long
            rankings = [await passages.find_by_words(connection, project_id, type, words, RANKED)]
            if vector is not None:
                assert ctx.services.embeddings is not None
                model = ctx.services.embeddings.model
                rankings.append(
                    await passages.find_by_vector(
                        connection, project_id, type, model, vector, min_similarity=MIN_SIMILARITY, limit=RANKED
                    )
                )
            # The passages of a build that was deleted are deleted later.
            builds = await test_health.find_existing_builds(
                connection, list({item.build_id for ranking in rankings for item in ranking})
            )
        rankings = [[item for item in ranking if item.build_id in builds] for ranking in rankings]
        return SemanticResults(to_results(rankings, words, limit), mode)

    async def _embed(self, ctx: RequestContext, text: str) -> list[float] | None:
        """Returns the vector of a text. Returns None if the server has no model or no pgvector, or if the model does
        not answer.
        """
        embeddings = ctx.services.embeddings
        if embeddings is None or not await passages.has_pgvector(ctx.source):
            return None
        try:
            (vector,) = await embeddings.embed([text])
        except EmbeddingsUnavailable as error:
            log.warning("a query is answered by its words only", error=str(error))
            return None
        return vector


def to_results(rankings: Sequence[Sequence[PassageRank]], words: Sequence[str], limit: int) -> list[SemanticResult]:
    """Returns the first `limit` results of a ranking that joins two others: the ranking by words, and the ranking by
    vectors if there is one. In the ranking by words, passages that are equally relevant are ordered by their similarity
    to the query.

    If no passage has a word of the query, each score is multiplied by the passage's similarity. So the results get low
    scores if no failure is about the subject of the query.
    """
    by_words, *by_vectors = rankings
    similarity = {item.id: item.relevance for ranking in by_vectors for item in ranking}
    ordered = sorted(by_words, key=lambda item: (-item.relevance, -similarity.get(item.id, -1.0)))
    rankings = [ordered, *by_vectors]
    found = {item.id: item for ranking in rankings for item in ranking}
    scores = fuse([[item.id for item in ranking] for ranking in rankings])
    if not by_words:
        scores = {id: score * similarity[id] for id, score in scores.items()}
    return [
        SemanticResult(
            item.type, item.subject_id, round(score, 4), make_snippet(item.text, words), item.build_id, item.result_id
        )
        for item, score in ((found[id], score) for id, score in list(scores.items())[:limit])
    ]
