"""Keeps the names of different tests different when long names are cut and forbidden characters are replaced. Tests
with equal names would count as attempts of one test, and the failure of an earlier attempt would not count.
"""

import re
from hashlib import blake2b

NAMES = frozenset({"name", "classname", "testName", "className", "method", "type", "file", "fullname", "value"})
"""Names of XML attributes whose values are, or may be, part of a test's name."""
_NAME = re.compile(
    r"""\b(?:name|classname|testName|className|method|fullname|value)=(?:"[^"<]{0,8192}"|'[^'<]{0,8192}')"""
)
_WORKSPACE = re.compile(r"(?:[A-Za-z]:)?[/\\](?:.*[/\\])?builds[/\\]\d+-\d+[/\\]workspace[/\\]")
"""Matches the beginning of a path up to the workspace of a build: `.../builds/1025-1/workspace/` (build id,
attempt).
"""
_FORBIDDEN = re.compile("[\x00-\x08\x0b\x0c\x0e-\x1a\x1c-\x1f\ud800-\udfff\ufffe\uffff]")


def cut_name(name: str, limit: int) -> str:
    """Returns the name, cut to at most `limit` characters. A cut name ends in the hash of the whole name."""
    if len(name) <= limit:
        return name
    return f"{name[: limit - 17]}~{blake2b(name.encode('utf-8', 'replace'), digest_size=8).hexdigest()}"


def without_workspace(name: str) -> str:
    """Returns a relative path for a path in the workspace of a build, so that the name is the same in every build.
    Returns any other name unchanged. The test runner of Node.js names a file without tests by its path.
    """
    found = _WORKSPACE.match(name) if "workspace" in name else None
    return name if found is None else name[found.end() :]


def show_forbidden(code: int) -> str:
    """Returns the visible sign for a character that XML forbids."""
    return chr(0x2400 + code) if code < 0x20 else "\ufffd"


def show_in_names(window: str) -> str:
    """Returns the window of text with visible signs instead of characters that XML forbids, but only in attributes
    whose values may be part of a test's name.
    """
    return _NAME.sub(
        lambda name: _FORBIDDEN.sub(lambda found: show_forbidden(ord(found.group())), name.group()), window
    )
