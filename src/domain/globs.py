"""Globs over names of branches and tags, and over paths.

`*` stands for any characters but `/`, `**` for any characters, `?` for one character but `/`, `[a-c]` for one of these
and `[!a-c]` for one of the others. `**/` also stands for nothing, so `**/x` matches `x`. Matching takes a time that is
proportional to the length of the name, whatever the glob.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

MAX_WILDCARDS = 32
"""Largest number of wildcards (`*`, `**`, `?` and `[`) in a glob."""
MAX_STEPS = 500_000
"""Largest number of steps of one comparison: about 0.5 s of CPU time. Each character of a path counts as one step or a
few for each glob.
"""
MAX_CACHED_STEPS = 1_000
"""Largest number of characters for which an automaton caches the states that they lead out of."""
TOKEN = re.compile(r"\*\*/|\*\*+|\*|\?|\[!?\]?[^\]]*\]|.", re.DOTALL)
REPEATED = re.compile(r"(?<!\*)(?:\*\*/)+")
"""`**/` once or several times, which is the same."""
MAX_CACHED = 1_000
"""Globs whose automata a process caches."""


class GlobAutomaton:
    """A nondeterministic automaton whose set of states is a bit mask. It has a state before each part of the glob, and
    the last state accepts.
    """

    def __init__(self, glob: str) -> None:
        self._prefix = re.split(r"[*?[]", glob, maxsplit=1)[0]
        """Beginning of all names that match; most names do not have it."""
        self._suffix = re.split(r"[*?\]]/?", glob)[-1]
        self._literals: dict[str, int] = defaultdict(int)
        """Character -> states that it leads out of."""
        self._classes: dict[int, re.Pattern[str]] = {}
        """State -> part of the glob that matches one of several characters, such as `?` or `[a-c]`."""
        self._within = self._anywhere = self._skips = self._ends_folder = 0
        count = 0
        for part in TOKEN.findall(REPEATED.sub("**/", glob)):
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
            elif part == "?" or len(part) > 1:
                self._classes[count] = _compile_class(part)
            else:
                self._literals[part] |= 1 << count
            count += 1
        self._stars = (self._within | self._anywhere) & ~self._ends_folder
        self._accepting = 1 << count
        self._steps: dict[str, int] = {}
        self.step_cost = 1 + len(self._classes) // 4
        """Steps that a character of a name counts for."""

    def may_match(self, name: str) -> bool:
        """Returns whether a name has the beginning and the end of those that match, which takes no step."""
        return name.startswith(self._prefix) and name.endswith(self._suffix)

    def matches(self, name: str) -> bool:
        if not self.may_match(name):
            return False
        states = self._closed(1)
        for character in name:
            step = self._steps.get(character)
            if step is None:
                step = self._find_step(character)
                if len(self._steps) < MAX_CACHED_STEPS:
                    self._steps[character] = step
            moved = (states & step) << 1
            stayed = states & (self._anywhere if character == "/" else self._anywhere | self._within)
            states = self._closed(moved | stayed)
            if not states:
                return False
        return bool(states & self._accepting)

    def _closed(self, states: int) -> int:
        """Adds the states that are reached without a character. At most four of them follow each other, since none of
        the wildcards that may stand for nothing is repeated.
        """
        while True:
            skipped = states & self._skips
            more = states | (states & self._stars) << 1 | skipped << 1 | skipped << 2
            if more == states:
                return states
            states = more

    def _find_step(self, character: str) -> int:
        step = self._literals.get(character, 0)
        for state, pattern in self._classes.items():
            step |= (pattern.match(character) is not None) << state
        return step | self._ends_folder if character == "/" else step


def _compile_class(part: str) -> re.Pattern[str]:
    """Returns a pattern for the characters that a part of a glob, such as `?` or `[a-c]`, matches."""
    if part == "?":
        return re.compile("[^/]")
    is_negated = part[1] == "!"
    characters = part[2 if is_negated else 1 : -1]
    listed, index = list[str](), 0
    while index < len(characters):
        first = last = characters[index]
        if index + 2 < len(characters) and characters[index + 1] == "-":
            last = characters[index + 2]
            index += 2
        if first <= last:
            listed.append(f"{re.escape(first)}-{re.escape(last)}")
        index += 1
    if is_negated:
        return re.compile(f"[^/{''.join(listed)}]")
    return re.compile(f"(?!/)[{''.join(listed)}]" if listed else "(?!)")


@lru_cache(MAX_CACHED)
def compile_glob(glob: str) -> GlobAutomaton:
    return GlobAutomaton(glob)


class TooManySteps(Exception):
    """More steps are needed than were allowed."""


@dataclass
class StepBudget:
    """Steps that a comparison may still take."""

    left: int = MAX_STEPS

    def spend(self, steps: int) -> None:
        """Raises TooManySteps if fewer are left."""
        if steps > self.left:
            raise TooManySteps
        self.left -= steps


def find_match(globs: Sequence[str], name: str, budget: StepBudget | None = None) -> str | None:
    """Returns the glob by which a name is selected; None if it is not. Later globs overrule earlier ones, and a glob
    after `!` takes out what it matches. Raises TooManySteps if there is a budget and it does not suffice.
    """
    found: str | None = None
    for glob in globs:
        automaton = compile_glob(glob.removeprefix("!"))
        if budget is not None and automaton.may_match(name):
            budget.spend(len(name) * automaton.step_cost)
        if automaton.matches(name):
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
    if len(re.findall(r"\*+|[?[]", pattern)) > MAX_WILDCARDS:
        return f"must have at most {MAX_WILDCARDS} wildcards (`*`, `**`, `?` and `[`)"
    if "[" in (part for part in TOKEN.findall(pattern)):
        return "must close each `[` by a `]`; `[[]` stands for the character `[`"
    return None
