"""Checks that are part of a value's type. They run whenever the types of a request's fields are checked, so that one
error names all wrong values.
"""

from collections.abc import Callable
from typing import Any

import msgspec
from msgspec import Meta


class ValueCheck(msgspec.Struct, frozen=True):
    """An item of `Annotated` that refuses values which have the right type but do not make sense. The API calls `check`
    with the name and the value of the field. `check` raises Invalid to refuse the value.
    """

    check: Callable[[str, Any], None]


def described_as(**keywords: Any) -> Meta:
    """Returns an item of `Annotated` that only adds keywords to the JSON Schema of a type, such as the `format` of a
    text whose check a pattern cannot express.
    """
    return Meta(extra_json_schema=keywords)
