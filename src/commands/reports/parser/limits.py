"""Limits on the parts of a report: single texts, cases, suites and tags. All lengths are in characters. Longer texts
are cut, and a warning of the report says so. `commands/reports/reading.py` has the limits on a whole report: its
results, names, texts and unpacked bytes.
"""

import msgspec


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    name: int = 4 * 1024
    """Length of a name, class name, file, suite name, node id or attachment. A longer one is cut at its end; a cut name
    ends in its hash.
    """
    message: int = 64 * 1024
    """Length of a message, or of one attribute or property value. A longer one is cut at its end."""
    trace: int = 256 * 1024
    """Length of a traceback. A longer one is cut in the middle: the cause is last in Python and first in Java."""
    output: int = 64 * 1024
    """Length of the captured output of one case in one stream. Longer output is cut in the middle."""
    case: int = 2 * 1024 * 1024
    """Length of all texts of one case together."""
    elements: int = 4096
    """Number of elements (properties, attempts, ...) in one case."""
    properties: int = 1024
    """Number of properties of one suite."""
    attributes: int = 256
    """Number of attributes of one tag."""
    tag: int = 1024 * 1024
    """Length of one tag with its attributes. The rest of a longer attribute value is skipped."""
    depth: int = 100
    """Nesting depth of elements. Deeper elements are skipped."""
    warnings_of_a_kind: int = 20
    """Number of separate warnings about wrong counts, for each kind. Further ones are only counted. Warnings of any
    other kind are combined into one.
    """
