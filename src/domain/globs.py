"""Globs over names of branches and tags, and over paths.

`*` stands for any characters but `/`, `**` for any characters, `?` for one character but `/`, `[a-c]` for one of the
characters a to c, and `[!a-c]` for one other character but `/`. `**/` may also stand for nothing, so `**/x` matches
`x`. Matching takes a time that is proportional to the length of the name, whatever the glob.
"""

import re
from collections import defaultdict
from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

MAX_WILDCARDS = 32
"""Largest number of wildcards (`*`, `**`, `?` and `[`) in a glob."""
MAX_STEPS = 500_000
"""Largest number of steps of one comparison of paths with globs: about 0.5 s of CPU time. For each glob, each character
of a path counts as one or more steps.
"""
MAX_CACHED_STEPS = 1_000
"""Largest number of different characters whose transitions an automaton caches."""
TOKEN = re.compile(r"\*\*/|\*\*+|\*|\?|\[!?\]?[^\]]*\]|.", re.DOTALL)
REPEATED = re.compile(r"(?<!\*)(?:\*\*/)+")
"""Matches `**/` once or several times in a row, which mean the same."""
MAX_CACHED = 1_000
"""Number of globs whose automata a process caches."""


class GlobAutomaton:
    """A nondeterministic automaton that recognises the names that a glob matches. It has one state before each part of
    the glob, and one after the last part, which accepts. Sets of states are bit masks.
    """

    def __init__(self, glob: str) -> None:
        self._prefix = re.split(r"[*?[]", glob, maxsplit=1)[0]
        """Text with which all matching names begin. Checking it first rejects most names."""
        self._suffix = re.split(r"[*?\]]/?", glob)[-1]
        self._literals: dict[str, int] = defaultdict(int)
        """Character -> the states in which this character leads to the next state."""
        self._classes: dict[int, re.Pattern[str]] = {}
        """State -> pattern of the characters that lead to the next state, for a part such as `?` or `[a-c]`."""
        self._within = self._anywhere = self._skips = self._ends_folder = 0
        count = 0
        for part in TOKEN.findall(REPEATED.sub("**/", glob)):
            if part == "**/":  # two states: the first leads to the second, and past it; the second loops up to a `/`
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
        """Number of steps that each character of a name counts as."""

    def may_match(self, name: str) -> bool:
        """Returns False for a name that lacks the beginning or the end that all matching names have, else True. Such a
        check costs no steps of a budget.
        """
        return name.startswith(self._prefix) and name.endswith(self._suffix)

    def matches(self, name: str) -> bool:
        if not self.may_match(name):
            return False
        states = self._with_empty_moves(1)
        for character in name:
            step = self._steps.get(character)
            if step is None:
                step = self._find_step(character)
                if len(self._steps) < MAX_CACHED_STEPS:
                    self._steps[character] = step
            moved = (states & step) << 1
            stayed = states & (self._anywhere if character == "/" else self._anywhere | self._within)
            states = self._with_empty_moves(moved | stayed)
            if not states:
                return False
        return bool(states & self._accepting)

    def _with_empty_moves(self, states: int) -> int:
        """Returns `states` (one bit each), and all states that can be reached from them without reading a character.
        The loop runs a few times at most: since repeated wildcards were merged, a chain of such moves has four states.
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
    """A comparison needs more steps than its budget has left."""


@dataclass
class StepBudget:
    """Number of steps that a comparison may still take."""

    left: int = MAX_STEPS

    def spend(self, steps: int) -> None:
        """Takes `steps` off the budget. Raises TooManySteps if fewer are left."""
        if steps > self.left:
            raise TooManySteps
        self.left -= steps


def find_match(globs: Sequence[str], name: str, budget: StepBudget | None = None) -> str | None:
    """Returns the glob that selects a name; None if the name is not selected. Later globs overrule earlier ones. A glob
    that begins with `!` excludes the names that it matches. Raises TooManySteps if `budget` does not suffice; a budget
    of None is unlimited.
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
    """Returns the mistake in a glob, as the end of a sentence whose subject is the glob ("must ..."); None for a valid
    glob.
    """
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
