"""Search over builds, tests, jobs, nodes and projects."""

from collections.abc import Collection
from typing import Annotated

import msgspec
from litestar import Controller, get
from litestar.params import Parameter

from api.http.permissions import CAN_READ
from api.http.request_context import RequestContext
from api.http.types import MAX_ID
from api.projects import find_visible_project
from domain.core.errors import Invalid, NotFound
from domain.search import make_snippet
from projections import results_history, search_queries
from projections.search_queries import TYPES, FoundDocument, SearchQuery, SearchType

MAX_QUERY = 200
"""Largest number of characters of a query."""
MAX_RESULTS = 50
"""Largest number of results of each type."""


class SearchResult(msgspec.Struct):
    type: SearchType
    id: int
    """Id of the build, test case, job, node or project."""
    name: str
    snippet: str
    """Part of the text in which the query was found; dots stand for what is left out."""
    score: float
    """From 0 to 1. The best results have the highest scores."""
    project_id: int | None
    """Project of the result; null for a node."""
    result_id: int | None
    """Id of the newest failed result of a test. Null if the test never failed, if the build of that result was deleted,
    and for the other types.
    """


class SearchResults(msgspec.Struct):
    query: str
    """The query as it was sent."""
    results: list[SearchResult]


TYPE = f" *({'|'.join(TYPES)}) *"


class SearchController(Controller):
    path = "/search"
    tags = ["Search"]

    @get(opt={"problems": (NotFound,)}, guards=[CAN_READ])
    async def search_resources(
        self,
        ctx: RequestContext,
        q: Annotated[
            str, Parameter(min_length=2, max_length=MAX_QUERY, description="Words to search for, in names and texts")
        ],
        types: Annotated[
            str | None,
            Parameter(
                max_length=100,
                description="Comma-separated types to search: build, test, job, node, project",
                schema_extra={"pattern": f"^{TYPE}(,{TYPE})*$"},
            ),
        ] = None,
        project_id: Annotated[int | None, Parameter(ge=1, le=MAX_ID, description="Limit to a specific project")] = None,
        limit: Annotated[int, Parameter(ge=1, le=MAX_RESULTS, description="Max results per type")] = 5,
    ) -> SearchResults:
        """Searches several types of resources at once, and returns the results with the highest scores first. Finds
        only what the caller may see. docs/search.md says what is found by which texts, and how the score is computed.
        """
        wanted = parse_types(types)
        query = SearchQuery.parse(q)
        async with ctx.reading() as connection:
            if project_id is not None:
                await find_visible_project(ctx, project_id)
            found = await search_queries.search(
                connection, query, wanted, projects=ctx.user.projects, project_id=project_id, limit=limit
            )
            failures = [item.result_id for item in found if item.result_id is not None]
            existing = await results_history.find_existing(connection, failures) if failures else set[int]()
        return SearchResults(q, [to_result(item, query, existing) for item in found])


def parse_types(text: str | None) -> list[SearchType]:
    """Returns the types that a comma-separated list names; all types for None. Raises Invalid for an unknown type."""
    if text is None:
        return list(TYPES)
    names = {name.strip() for name in text.split(",")}
    if unknown := sorted(names - set(TYPES)):
        raise Invalid.field(
            "types", f"must be some of {', '.join(TYPES)}, separated by commas, not {', '.join(map(repr, unknown))}"
        )
    return [type for type in TYPES if type in names]


def to_result(found: FoundDocument, query: SearchQuery, existing: Collection[int]) -> SearchResult:
    """Returns a found document as a result of the search. `existing` contains the ids of those failed results whose
    builds are not deleted.
    """
    snippet = make_snippet(found.text or found.name, query.words)
    result_id = found.result_id if found.result_id in existing else None
    return SearchResult(found.type, found.id, found.name, snippet, round(found.score, 4), found.project_id, result_id)
