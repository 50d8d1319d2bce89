"""Builds elements from tags. Every start tag gets an end tag, even in broken files, and parts beyond the limits are
left out.

`Balancer` closes elements that were left open and ignores end tags without a start tag. `Element` is an element of a
case with its children; it is kept only until the case has been read. `Budget` bounds the size of one case.
"""

from collections.abc import Callable, Iterator
from typing import Protocol

from commands.reports.parser.limits import Limits
from commands.reports.parser.notes import Notes
from formats.reports import DIALECTS

# No case contains such an element: if one begins within a case, the case has lost its end tag.
_NEVER_WITHIN = frozenset(
    {
        "testcase",
        "testsuite",
        "testsuites",
        "test-case",
        "test-suite",
        "test-run",
        "assembly",
        "assemblies",
        "collection",
    }
)
_CASES = frozenset({"testcase", "test-case"})
CUT = "\n[... cut ...]\n"
"""Text in place of the middle of a text that was cut."""
VERDICTS = frozenset(
    {
        "failure",
        "error",
        "skipped",
        "flakyFailure",
        "flakyError",
        "rerunFailure",
        "rerunError",
        "reason",
        "ErrorInfo",
    }
)


class Elements(Protocol):
    def start(self, name: str, attributes: dict[str, str]) -> None: ...
    def text(self, text: str) -> None: ...
    def end(self, name: str, *, whole: bool) -> None: ...


class Balancer:
    """Makes start and end tags nest properly. Ends an element that lacks its end tag by calling `end` of `elements`
    with `whole=False`.
    """

    def __init__(self, elements: Elements, notes: Notes, limits: Limits, line: Callable[[], int]) -> None:
        self._elements = elements
        self._notes = notes
        self._limits = limits
        self._line = line
        self._open: list[str] = []
        self._case_at = -1
        self._too_deep: list[str] = []

    def start(self, name: str, attributes: dict[str, str]) -> None:
        if self._case_at >= 0 and name in _NEVER_WITHIN:
            while len(self._open) > self._case_at >= 0:
                self._implied()
            self._too_deep.clear()
        if self._too_deep or len(self._open) >= self._limits.depth:
            kind = "lost_results" if name in DIALECTS or name in VERDICTS else "too_deep"
            if not self._notes.count_repeat(kind):
                self._notes.add(kind, f"<{name}>", line=self._line())
            # Bounded, so that an unclosed element at the greatest depth does not make the list grow with the file.
            if len(self._too_deep) < 10_000:
                self._too_deep.append(name)
            return
        if name in _CASES:
            self._case_at = len(self._open)
        self._open.append(name)
        self._elements.start(name, attributes)

    def text(self, text: str) -> None:
        if not self._too_deep:
            self._elements.text(text)

    def end(self, name: str) -> None:
        if self._too_deep:
            if self._too_deep[-1] == name:
                self._too_deep.pop()
                return
            if name not in self._open:
                return
            self._too_deep.clear()
        if self._open and self._open[-1] == name:
            self._pop(whole=True)
        elif name in self._open:
            while self._open[-1] != name:
                self._implied()
            self._pop(whole=True)
        elif not self._notes.count_repeat("stray_end_tag"):
            self._notes.add("stray_end_tag", f"</{name}>", line=self._line())

    def close(self) -> None:
        if self._open:
            self._notes.add("truncated", " ".join(f"<{name}>" for name in self._open[:8]), line=self._line())
        while self._open:
            self._pop(whole=False)

    def _implied(self) -> None:
        if not self._notes.count_repeat("unclosed_element"):
            self._notes.add("unclosed_element", f"<{self._open[-1]}>", line=self._line())
        self._pop(whole=False)

    def _pop(self, *, whole: bool) -> None:
        name = self._open.pop()
        if len(self._open) == self._case_at:
            self._case_at = -1
        self._elements.end(name, whole=whole)


class Budget:
    """Number of elements and of characters that may still be added to one case."""

    __slots__ = ("elements", "text")

    def __init__(self, limits: Limits) -> None:
        self.text = limits.case
        self.elements = limits.elements


class Element:
    """An element with its attributes, its children and the text that is directly inside of it. `all_text` also includes
    the text of its children.
    """

    __slots__ = (
        "_head",
        "_size",
        "_tail",
        "_tail_size",
        "attributes",
        "children",
        "cut",
        "limit",
        "name",
        "whole",
    )

    def __init__(self, name: str, attributes: dict[str, str], limit: int) -> None:
        self.name = name
        self.attributes = attributes
        self.children: list[Element] = []
        self.limit = limit
        self.cut = False
        self.whole = False
        self._head: list[str] = []
        self._size = 0
        self._tail: list[str] = []
        self._tail_size = 0

    def add_text(self, text: str, budget: Budget) -> None:
        """Adds text. If the element's text becomes longer than the limit, keeps only the first and the last part of it,
        half of the limit each.
        """
        if not self.cut:
            room = min(self.limit - self._size, budget.text)
            if len(text) <= room:
                self._head.append(text)
                self._size += len(text)
                budget.text -= len(text)
                return
            self.cut = True
            whole = "".join(self._head) + text
            half = min(self.limit, self._size + budget.text) // 2
            budget.text -= max(0, 2 * half - self._size)
            self.limit = 2 * half
            self._head = [whole[:half]]
            self._tail = [whole[half:]]
            self._tail_size = len(whole) - half
        else:
            self._tail.append(text)
            self._tail_size += len(text)
        half = self.limit // 2
        if self._tail_size > 2 * half + 4096:
            self._tail = [_last(self._tail, half)]
            self._tail_size = len(self._tail[0])

    def text(self) -> str:
        head = "".join(self._head)
        if not self.cut:
            return head
        return f"{head}{CUT}{_last(self._tail, self.limit // 2)}"

    def all_text(self) -> str:
        """Returns the text of the element, including the text of inner elements. A message may contain markup that was
        not escaped, which then looks like inner elements.
        """
        if not self.children:
            return self.text()
        return "".join([self.text(), *(child.all_text() for child in self.children)])

    def get(self, *names: str) -> str:
        """Returns the value of the first attribute in `names` that is not empty; an empty text if there is none."""
        for name in names:
            if value := self.attributes.get(name, ""):
                return value
        return ""

    def find(self, *path: str) -> "Element | None":
        node = self
        for name in path:
            for child in node.children:
                if child.name == name:
                    node = child
                    break
            else:
                return None
        return node

    def text_at(self, *path: str) -> str:
        node = self.find(*path)
        return node.all_text() if node is not None else ""

    def each(self, *names: str) -> Iterator["Element"]:
        return (child for child in self.children if child.name in names)


def _last(pieces: list[str], length: int) -> str:
    return "".join(pieces)[-length:] if length else ""
