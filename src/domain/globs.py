"""Globs over names of branches and tags, and over paths.

`*` stands for any characters but `/`, `**` for any characters, `?` for one character but `/`, `[a-c]` for one of these
and `[!a-c]` for one of the others. `**/` also stands for nothing, so `**/x` matches `x`. Matching takes a time that is
proportional to the length of the name, whatever the glob.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from functools import lru_cache

TOKEN = re.compile(r"\*\*/|\*\*+|\*|\?|\[!?\]?[^\]]*\]|.", re.DOTALL)
MAX_CACHED = 20_000
"""Globs whose automata a process caches."""


class GlobAutomaton:
    """A nondeterministic automaton whose set of states is a bit mask. It has a state before each part of the glob, and
    the last state accepts.
    """

    def __init__(self, glob: str) -> None:
        self._prefix = re.split(r"[*?[]", glob, maxsplit=1)[0]
        """Beginning of all names that match; most names do not have it."""
        self._singles: dict[int, str] = {}
        """State -> part of the glob that matches one character."""
        self._within = self._anywhere = self._skips = self._ends_folder = 0
        count = 0
        for part in TOKEN.findall(glob):
            if part == "**/":  # the first state leads to the second, and past it; the second loops up to a `/`
                self._skips |= 1 << count
                self._anywhere |= 2 << count
                self._ends_folder |= 2 << count
                count += 2
                continue
            if part == "*":
                self._within |= 1 << count
            elif part.startswith("**"):
                self._anywhere |= 1 << count
            else:
                self._singles[count] = part
            count += 1
        self._stars = (self._within | self._anywhere) & ~self._ends_folder
        self._accepting = 1 << count
        self._steps: dict[str, int] = defaultdict(int)

    def matches(self, name: str) -> bool:
        if not name.startswith(self._prefix):
            return False
        states = self._closed(1)
        for character in name:
            if character not in self._steps:
                self._steps[character] = self._find_step(character)
            moved = (states & self._steps[character]) << 1
            stayed = states & (self._anywhere if character == "/" else self._anywhere | self._within)
            states = self._closed(moved | stayed)
            if not states:
                return False
        return bool(states & self._accepting)

    def _closed(self, states: int) -> int:
        """Adds the states that are reached without a character."""
        while True:
            skipped = states & self._skips
            more = states | (states & self._stars) << 1 | skipped << 1 | skipped << 2
            if more == states:
                return states
            states = more

    def _find_step(self, character: str) -> int:
        step = sum(1 << state for state, part in self._singles.items() if _is_in(part, character))
        return step | self._ends_folder if character == "/" else step


def _is_in(part: str, character: str) -> bool:
    """Returns whether a part of a glob, such as `?`, `a` or `[a-c]`, matches a character."""
    if part == "?":
        return character != "/"
    if len(part) == 1:
        return part == character
    is_negated = part[1] == "!"
    characters = part[2 if is_negated else 1 : -1]
    found, index = False, 0
    while index < len(characters):
        if index + 2 < len(characters) and characters[index + 1] == "-":
            found |= characters[index] <= character <= characters[index + 2]
            index += 3
        else:
            found |= characters[index] == character
            index += 1
    return character != "/" and found != is_negated


@lru_cache(MAX_CACHED)
def compile_glob(glob: str) -> GlobAutomaton:
    return GlobAutomaton(glob)


def find_match(globs: Sequence[str], name: str) -> str | None:
    """Returns the glob by which a name is selected; None if it is not. Later globs overrule earlier ones, and a glob
    after `!` takes out what it matches.
    """
    found: str | None = None
    for glob in globs:
        if compile_glob(glob.removeprefix("!")).matches(name):
            found = None if glob.startswith("!") else glob
    return found


def find_fault(glob: str) -> str | None:
    """Returns what is wrong with a glob, as the rest of a sentence; None if nothing is."""
    pattern = glob.removeprefix("!")
    if not pattern or not pattern.isprintable():
        return "must be a glob of printable characters"
    if pattern.startswith("/"):
        return "must not begin with /: names of branches and tags, and paths within the repository, do not"
    if pattern.startswith("refs/"):
        return "must be a glob over names such as main or v1.0: leave out refs/heads/ or refs/tags/"
    if "[" in (part for part in TOKEN.findall(pattern)):
        return "must close each `[` by a `]`; `[[]` stands for the character `[`"
    return None
