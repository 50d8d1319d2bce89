"""Changed files through which the trace of a failure passes.

A trace names files in many ways: by a path in the checkout or on the machine, or as Java does, by a class and the last
part of the path. A file in a trace counts as a changed file only if its path in the trace ends in its path in the
repository, or the other way round.
"""

import re
from collections.abc import Iterable, Sequence

_SEPARATORS = re.compile(r"[\s\"'`()\[\]{}<>,;:=|]+")
MIN_PARTS = 2
"""Least number of parts (folders and file name) that the path of a changed file and a path in a trace must have in
common at their ends. Fewer parts are enough for a file in the root of the repository, and for a Java class.
"""


def find_passed_paths(paths: Sequence[str], traces: Iterable[str]) -> list[str]:
    """Returns the changed paths (`paths`) whose files one of the traces names, in the order of `paths`."""
    by_name: dict[str, list[str]] = {}
    for path in paths:
        by_name.setdefault(path.rpartition("/")[2], []).append(path)
    found = set[str]()
    for trace in traces:
        for line in trace.splitlines():
            words = [word.replace("\\", "/").removeprefix("./") for word in _SEPARATORS.split(line)]
            for at, word in enumerate(words):
                before = words[at - 1] if at else ""
                candidates = by_name.get(word.rpartition("/")[2], ())
                found.update(path for path in candidates if _is_same_file(path, word, before))
    return [path for path in paths if path in found]


def _is_same_file(path: str, word: str, before: str) -> bool:
    """Returns whether a word of a trace names the file at the path. `before` is the word that precedes `word` in the
    trace. In traces of Java, that is the name of a method with its class and package.
    """
    parts, named = path.split("/"), word.split("/")
    shorter = min(len(parts), len(named))
    if parts[-shorter:] != named[-shorter:]:
        return False
    if shorter >= MIN_PARTS:
        return True
    if shorter == len(parts):  # a file in the root of the repository is in no folder of it
        return len(named) == 1 or word.startswith("/")
    qualified = f"{parts[-2]}.{parts[-1].partition('.')[0]}"
    return f".{qualified}." in f".{before}."
