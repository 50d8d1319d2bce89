"""Pages of lists: which part of a list a request asks for, and the link to the next page."""

from collections.abc import Sequence
from typing import Annotated, Any, Protocol, TypeVar
from urllib.parse import urlencode

import msgspec
from litestar import Request, Response
from litestar.params import Parameter

from api.http.types import MAX_ID
from domain.core.errors import Invalid
from projections.engine.queries import Window

DEFAULT_PAGE_SIZE = 200
"""Number of items on a page if the request does not say how many it wants. Lists of builds and pages of logs have other
numbers, in `api/builds.py` and `api/build_logs.py`.
"""
MAX_PAGE_SIZE = 500
"""Largest number of items on a page."""


class WithId(Protocol):
    @property
    def id(self) -> int: ...


Item = TypeVar("Item", bound=WithId)


class Paged(msgspec.Struct, frozen=True):
    """Part of a list to return: a page by its number, or the items after an id. Finding the items after an id takes the
    same time however long the list is.
    """

    page: int
    limit: int
    after: int

    @property
    def offset(self) -> int:
        return 0 if self.after else (self.page - 1) * self.limit

    @property
    def window(self) -> Window:
        """Parameters `after`, `offset` and `limit` for the query that reads the items."""
        return {"after": self.after, "offset": self.offset, "limit": self.limit}


def provide_paged(
    request: Request[Any, Any, Any],
    page: Annotated[int, Parameter(ge=1, le=1_000_000, description="Page of the list, from 1")] = 1,
    limit: Annotated[int, Parameter(ge=1, le=MAX_PAGE_SIZE, description="Items on a page")] = DEFAULT_PAGE_SIZE,
    after: Annotated[
        int | None, Parameter(ge=0, le=MAX_ID, description="Only items after this id, instead of a page")
    ] = None,
) -> Paged:
    """Returns the page that a request asks for. Litestar injects it as `paged` into operations that list items by
    id.
    """
    check_one_offset(request, "after")
    return Paged(page, limit, after or 0)


def check_one_offset(request: Request[Any, Any, Any], key: str) -> None:
    """Raises Invalid if a request has both the parameter `page` and the parameter whose name is `key`, such as `after`.
    Each of them says where the page begins, so the server could use only one.
    """
    if "page" in request.query_params and key in request.query_params:
        raise Invalid.field("page", f"is not possible with `{key}`: give either of them")


def paginate(request: Request[Any, Any, Any], paged: Paged, items: list[Item]) -> Response[list[Item]]:
    """Returns a response with the items of one page and the `Link` header to the next page."""
    return Response(items, headers=next_page(request, paged.limit, [item.id for item in items]))


def next_page(request: Request[Any, Any, Any], limit: int, ids: Sequence[int], *, key: str = "after") -> dict[str, str]:
    """Returns the `Link` header to the next page, or no header if this is the last page. `ids` are the ids of the items
    on this page. The next page's URL contains the last of these ids in the query parameter `key`.
    """
    if len(ids) < limit:
        return {}
    kept = [(name, value) for name, value in request.query_params.multi_items() if name not in ("page", key)]
    return {"Link": f'<{request.url.path}?{urlencode([*kept, (key, ids[-1])])}>; rel="next"'}
