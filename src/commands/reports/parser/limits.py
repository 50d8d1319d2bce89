"""How much of a report is kept. One struct, so that every number can be found, tuned and tested in one place.

All lengths are in characters. What is longer is cut, and a warning of the report says so.
"""

import msgspec


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    name: int = 4 * 1024
    """Names, class names, files, suite names, node ids, attachments. Cut at the end."""
    message: int = 64 * 1024
    """Messages and any one attribute or property value. Cut at the end."""
    trace: int = 256 * 1024
    """Traceback of one case. The first and the last half are kept: Python's cause is last, Java's is first.
    """
    output: int = 64 * 1024
    """Captured output, of each stream and case. The first and the last half are kept."""
    case: int = 2 * 1024 * 1024
    """All text of one case together."""
    elements: int = 4096
    """Elements (properties, attempts, ...) within one case."""
    properties: int = 1024
    """Properties of one suite."""
    attributes: int = 256
    """Attributes of one tag."""
    tag: int = 1024 * 1024
    """One tag with its attributes. A longer attribute value is skipped over without being held."""
    depth: int = 100
    """Nesting of elements. What lies deeper is skipped."""
    warnings_of_a_kind: int = 20
    """Warnings which are worded one by one (count mismatches); more are only counted."""
