"""Rejections: the reasons why a request is refused.

Rejection
    ├── Unauthenticated      401
    ├── Forbidden            403
    ├── NotFound             404
    ├── BodyTimeout          408
    ├── Conflict             409
    ├── Erased               410
    ├── TooLarge             413
    ├── Invalid              422
    ├── TooManyRequests      429
    ├── ContentsAltered      500
    ├── OutsideFailure       502
    ├── Unavailable          503
    │       ├── StorageFull  503
    │       └── StreamDamaged 503
    ├── StillRunning         504
    └── OutsideTimeout       504

`detail` is a sentence that the caller can act on. `api.http.problems` turns rejections into answers of the type
`application/problem+json`.
"""

import contextlib
from collections.abc import Iterator, Sequence
from typing import ClassVar, NamedTuple


class FieldError(NamedTuple):
    field: str
    message: str


class Rejection(Exception):
    """Base of the errors that refuse a request for a reason that the caller can act on."""

    status: ClassVar[int]
    slug: ClassVar[str]
    title: ClassVar[str]

    def __init__(self, detail: str) -> None:
        super().__init__(detail)
        self.detail = detail


class Unauthenticated(Rejection):
    status, slug, title = 401, "unauthenticated", "Not signed in"


class Forbidden(Rejection):
    status, slug, title = 403, "forbidden", "Not allowed"


class NotFound(Rejection):
    status, slug, title = 404, "not-found", "Not found"


class BodyTimeout(Rejection):
    """The body of the request did not come in time."""

    status, slug, title = 408, "body-timeout", "The body did not come in time"


class Conflict(Rejection):
    status, slug, title = 409, "conflict", "The current state forbids this"


class Erased(Rejection):
    status, slug, title = 410, "erased", "Erased"


class TooLarge(Rejection):
    status, slug, title = 413, "too-large", "Too large"


class Invalid(Rejection):
    """The request is well-formed but has values that are not accepted; `errors` names their fields."""

    status, slug, title = 422, "invalid", "Invalid input"

    def __init__(self, detail: str, *errors: FieldError) -> None:
        super().__init__(detail)
        self.errors = errors

    @classmethod
    def field(cls, field: str, message: str) -> "Invalid":
        return cls.fields([FieldError(field, message)])

    @classmethod
    def fields(cls, errors: Sequence[FieldError]) -> "Invalid":
        return cls("; ".join(f"{error.field}: {error.message}" for error in errors), *errors)


@contextlib.contextmanager
def collect_errors(errors: list[FieldError]) -> Iterator[None]:
    """Runs the block of a `with` statement. If the block raises Invalid, adds the field errors of this exception to
    `errors`, and goes on after the block.
    """
    try:
        yield
    except Invalid as refused:
        errors += refused.errors


class TooManyRequests(Rejection):
    status, slug, title = 429, "too-many-requests", "Too many requests"

    def __init__(self, detail: str, retry_after_s: int) -> None:
        super().__init__(detail)
        self.retry_after_s = retry_after_s


class ContentsAltered(Rejection):
    """The stored content of a file or log does not match the hash that an event recorded."""

    status, slug, title = 500, "contents-altered", "Stored contents were altered"


class OutsideFailure(Rejection):
    """An outside system failed, or its answer cannot be used. The message names the system and its
    answer.
    """

    status, slug, title = 502, "outside-failure", "An outside system failed"


class Unavailable(Rejection):
    status, slug, title = 503, "unavailable", "Temporarily unavailable"

    def __init__(self, detail: str, retry_after_s: int = 2) -> None:
        super().__init__(detail)
        self.retry_after_s = retry_after_s


class StorageFull(Unavailable):
    """A disk of the server is full. Nothing of the request was stored."""

    slug, title = "insufficient-storage", "A disk of the server is full"

    def __init__(self, disk: str) -> None:
        super().__init__(
            f"The disk of the {disk} is full, and nothing was changed. Try again once the operator has made room."
        )


class StreamDamaged(Unavailable):
    """A stored event cannot be read, so the state of its stream is unknown."""

    slug, title = "damaged", "A stored event cannot be read"


class OutsideTimeout(Rejection):
    """An outside system did not answer in time; the message says which one."""

    status, slug, title = 504, "outside-timeout", "An outside system did not answer in time"


class StillRunning(Rejection):
    """The requested work goes on in the background; `location` is the URL of its result."""

    status, slug, title = 504, "still-running", "Still running"

    def __init__(self, detail: str, location: str) -> None:
        super().__init__(detail)
        self.location = location
