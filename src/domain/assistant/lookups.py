"""Look-ups by which an AI job gets more evidence about what it has found. A look-up is a type, and a reference that the
job's answer already cites. So a model cannot ask for anything else, such as another project.
"""

from collections.abc import Iterable, Sequence
from itertools import chain, zip_longest
from typing import Literal

import msgspec

from domain.assistant.answers import Source

LookupKind = Literal["test_history", "similar_failures", "log_lines", "builds_of_commit"]

MAX_LOOKUPS = 6
"""Largest number of look-ups of one AI job."""
MAX_OFFERED = 40
"""Largest number of look-ups among which a model may choose."""
_KINDS: dict[str, tuple[LookupKind, ...]] = {
    "test_case": ("test_history",),
    "test": ("similar_failures", "test_history"),
    "commit": ("builds_of_commit",),
    "build": ("log_lines",),
    "log": ("log_lines",),
}
"""Beginning of a reference -> types of look-ups that it can be used for."""


class Lookup(msgspec.Struct, frozen=True):
    kind: LookupKind
    ref: str

    @property
    def name(self) -> str:
        return f"{self.kind} {self.ref}"


class LookedUp(msgspec.Struct, frozen=True):
    """Result of a look-up."""

    lookup: Lookup
    text: str
    """A sentence that says what was found."""
    sources: tuple[Source, ...] = ()
    """Sources for the sentence."""


def offer_lookups(refs: Iterable[str]) -> tuple[Lookup, ...]:
    """Returns the look-ups that are possible for these references, in the order of `refs`, MAX_OFFERED at most."""
    offered = [Lookup(kind, ref) for ref in refs for kind in _KINDS.get(ref.partition(":")[0], ())]
    return tuple(dict.fromkeys(offered))[:MAX_OFFERED]


def plan_lookups(offered: Sequence[Lookup]) -> tuple[Lookup, ...]:
    """Returns the look-ups to make if no model chooses them: the first of each type, then the second of each type, and
    so on, MAX_LOOKUPS at most.
    """
    by_kind: dict[LookupKind, list[Lookup]] = {}
    for lookup in offered:
        by_kind.setdefault(lookup.kind, []).append(lookup)
    in_turn = chain.from_iterable(zip_longest(*by_kind.values()))
    return tuple(lookup for lookup in in_turn if lookup is not None)[:MAX_LOOKUPS]
