"""Verifies an export of the audit log. Needs the files alone: no database, no settings, no server.

The lines are folded into a tree in the order of their positions, in O(log n) of memory (and a few bytes a stream, for
its version). Where the tree reaches the size of a checkpoint, their roots must be the same. A line whose content does
not make the hash that the tree has for it was changed after it was sealed: that locates it.
"""

import hashlib
from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from domain.sealing import SIGNING_KEY, SigningKeyChanged
from store.audit.export import Header, Line
from store.audit.leaves import EventLeaf, GapLeaf, Leaf, UnreadableLeaf, hash_of, sha256
from store.audit.merkle import HASH, BadProof, Frontier
from store.audit.signed_notes import BadNote, Checkpoint, VerifierKey, open_note, split_note
from store.log.codec import SALT

MAX_KEPT = 1_000
"""Findings that are kept to be shown; one changed position may well be followed by a million."""


@dataclass(frozen=True)
class Held:
    """A checkpoint that the export must agree with."""

    label: str
    note: str
    checkpoint: Checkpoint
    is_handover: bool = False


@dataclass(frozen=True)
class Finding:
    position: int | None
    says: str

    def __str__(self) -> str:
        return self.says if self.position is None else f"position {self.position}: {self.says}"


class Verifier:
    """`key` is the signing key that is trusted; a later one is when a checkpoint that a trusted key signed covers it.

    Without one the first key that the export names is taken for it.
    """

    def __init__(self, key: VerifierKey | None = None, held: Iterable[Held] = ()) -> None:
        self.key = key
        self.findings: list[Finding] = []
        """The first ones; `found` counts all."""
        self.found = self.events = self.erased = self.gaps = self.left_out = 0
        self.header: Header | None = None
        self.agreed: list[Held] = []
        """The checkpoints whose root the export has."""
        self._held = list(held)
        self._compared: list[Held] = []
        self._at = self._covered = 0
        self._tree: Frontier | None = Frontier()
        """None once something is missing, so that nothing can be compared."""
        self.begins_at = 1
        """The first position that the export holds, shown or not."""
        self._has_ended = False
        self._versions: dict[str, int] = {}
        self._handed_to: list[tuple[int, VerifierKey]] = []

    def verify(self, lines: Iterable[bytes]) -> None:
        for number, text in enumerate(lines, 1):
            try:
                line = msgspec.json.decode(text, type=Line)
                if msgspec.json.encode(line) != text.removesuffix(b"\n"):
                    # A name that is there twice, say: other readers may take the value that is not verified here.
                    self._find(None, f"line {number} is not written as an export writes it")
                if not _says_one_thing(line):
                    self._find(None, f"line {number} says more than one thing")
                self._take(line, number)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                self._find(None, f"line {number} is no whole line of an export")
        self._finish()

    def _take(self, line: Line, number: int) -> None:
        if line.export is not None:
            self._begin(line.export)
        elif self.header is None:
            self._find(None, f"line {number} comes before the export's header")
        elif line.end is not None:
            self._has_ended = line.end == self._at == self.header.size
        elif line.skipped is not None:
            self._leave_out(*line.skipped, line.hashes or [])
        elif line.gap is not None:
            self._take_gap(line.gap, line.leaf or "")
        elif line.position is not None:
            self._take_row(line.position, line)
        else:
            self._find(None, f"line {number} says nothing that an export says")

    # The header, also in the middle of a file: of an export that was cut off, or that is continued.

    def _begin(self, header: Header) -> None:
        try:
            before: Frontier | None = _frontier(header)
        except (BadProof, ValueError):
            self._find(None, "the header's hashes are not those of what comes before the export")
            before = None
        if self.header is None:
            self._at, self._tree, self.begins_at = header.after, before, header.after + 1
            if self.key is None and header.keys:
                self.key = _own_key(header.keys[0])
        else:
            self._go_on(header, self.header, before)
        self.header, self._has_ended = header, False
        self._hold(header)
        self._reached()

    def _go_on(self, header: Header, first: Header, before: Frontier | None) -> None:
        if (header.origin, header.filter) != (first.origin, first.filter):
            self._find(None, f"the export goes on after position {header.after} with another log or filter")
        if header.after > self._at:
            self._find(self._at + 1, f"missing in the export, up to {header.after}")
            self._at, self._tree = header.after, before
        elif header.after == self._at and self._tree and before and before.root != self._tree.root:
            self._find(None, f"the export goes on after position {header.after} of a log that was another there")
        # Else it begins again with positions that are there already: each of them is a finding.

    def _hold(self, header: Header) -> None:
        self._covered = header.size
        known = {held.note for held in self._held}
        own = [("the export's handover", note, True) for note in header.handovers]
        for label, note, is_handover in [*own, ("the export's own", header.checkpoint, False)]:
            try:
                checkpoint = checkpoint_of(note)
                if note not in known:
                    self._held.append(Held(f"{label} checkpoint", note, checkpoint, is_handover))
                if not is_handover and checkpoint.size != header.size:
                    self._covered = min(self._covered, checkpoint.size)
                    self._find(None, "the header's size is not that of its checkpoint")
            except BadNote as error:
                self._find(None, f"{label} checkpoint: {error}")
        for held in self._held:
            if held.checkpoint.origin != header.origin:
                self._find(None, f"{held.label} is about another log, {held.checkpoint.origin}")

    # What stands at a position.

    def _take_gap(self, position: int, leaf: str) -> None:
        if not self._append(position, leaf):
            return
        self.gaps += 1
        if hash_of(GapLeaf(position)).hex() != leaf:
            self._find(position, "the row that was sealed here is gone")
        self._reached()

    def _take_row(self, position: int, line: Line) -> None:
        if position < 1:
            self._find(position, f"was inserted, since the log begins at 1: {_said(line)}")
            return
        if not self._append(position, line.leaf or ""):
            return
        self.events += 1
        leaf = leaf_of_line(position, line)
        if leaf is None or hash_of(leaf).hex() != line.leaf:
            was_empty = hash_of(GapLeaf(position)).hex() == line.leaf
            fault = "was inserted where nothing was" if was_empty else "is not the row that was sealed here"
            self._find(position, f"{fault}: {_said(line)}")
        elif line.unreadable is not None or line.clear is msgspec.UNSET:
            self._find(position, f"is the row that was sealed here, but cannot be read: {line.unreadable}")
        else:
            self._check_sealed(position, line)
            self._note_key(position, line)
        self._check_version(position, line)
        self._reached()

    def _check_sealed(self, position: int, line: Line) -> None:
        if line.sealed is msgspec.UNSET:
            self.erased += bool(line.commitment)
        elif _committed(line.salt, bytes(line.sealed)) != line.commitment:
            self._find(position, "the sealed fields are not those that the event was committed to")

    def _check_version(self, position: int, line: Line) -> None:
        stream, version = line.stream or "", line.version or 0
        last = self._versions.get(stream, 0 if self.begins_at == 1 else version - 1)
        if version != last + 1:
            self._find(position, f"stream {stream} goes from version {last} to {version}: an event is missing or moved")
        self._versions[stream] = version

    def _note_key(self, position: int, line: Line) -> None:
        if (line.stream, line.type) == (SIGNING_KEY.name, SigningKeyChanged.name) and line.clear is not msgspec.UNSET:
            key = _own_key(str(msgspec.json.decode(line.clear).get("public_key", "")))
            if key is not None:
                self._handed_to.append((position, key))

    def _leave_out(self, first: int, last: int, hashes: list[str]) -> None:
        assert self.header is not None
        if not self.header.filter:
            self._find(first, f"up to {last}: left out of an export of the whole log")
        if first != self._at + 1 or last < first:
            self._find(first, "does not follow the line before: lines are missing, or in another order")
            self._tree = None
        elif self._tree is not None:
            try:
                self._tree.extend(last, _hashes(hashes))
            except (BadProof, ValueError):
                self._find(first, f"up to {last}: the hashes of what is left out do not fit")
                self._tree = None
        self._must_be_covered(last)
        self.left_out += max(0, last - self._at)
        self._at = max(self._at, last)
        self._reached()

    def _append(self, position: int, leaf: str) -> bool:
        """Whether the position is a new one."""
        if position <= self._at:
            self._find(position, "is there more than once, or in another order")
            return False
        if position > self._at + 1:
            last = position - 1
            self._find(self._at + 1, f"missing in the export{f', up to {last}' if last > self._at + 1 else ''}")
            self._tree = None
        self._must_be_covered(position)
        self._at, self._has_ended = position, False
        if self._tree is not None:
            try:
                self._tree.append(_hashes([leaf])[0])
            except ValueError:
                self._find(position, "the hash of its leaf is none")
                self._tree = None
        return True

    def _must_be_covered(self, position: int) -> None:
        if position > self._covered:
            self._find(position, "is not covered by the export's own checkpoint")

    # Checkpoints.

    def _reached(self) -> None:
        """Compares with the checkpoints of exactly this size, and follows the signing key across them."""
        here = [held for held in self._held if held.checkpoint.size == self._at and held not in self._compared]
        if not here or self._tree is None:
            return
        self._compared += here
        root = self._tree.root
        fitting = [held for held in here if held.checkpoint.root == root]
        for held in here:
            if held not in fitting:
                self._find(None, self._differs(held))
        self.agreed += fitting
        vouched = [held for held in fitting if self._is_signed(held)]
        for position, key in self._handed_to if vouched else ():
            if position <= self._at:
                self.key = key

    def _differs(self, held: Held) -> str:
        agreed = max((one.checkpoint.size for one in self.agreed), default=0)
        where = f"the tree from position {agreed + 1} to {held.checkpoint.size} is not the one that {held.label} signed"
        return f"{where} ({held.checkpoint.time:%Y-%m-%d %H:%M:%S} UTC): rows and their hashes were replaced together"

    def _is_signed(self, held: Held) -> bool:
        if self.key is None:
            self._find(None, f"{held.label}: the export names no signing key; give it by --key")
            return False
        try:
            open_note(held.note, [self.key])
        except BadNote as error:
            if not held.is_handover:  # one to a key that is trusted from the start needs no voucher
                self._find(None, f"{held.label}: {error}")
            return False
        return True

    def _finish(self) -> None:
        if self.header is None:
            self._find(None, "this is no export: it has no header")
            return
        if not self._has_ended:
            self._find(None, f"the export is cut off after position {self._at}: go on by ?after={self._at}")
        for held in self._held:
            size = held.checkpoint.size
            if size > self._at and self._has_ended:
                says = f"the log ends at {self._at}, but {held.label} covers it up to {size}: its tail was removed"
                self._find(None, says if size > self.header.size else f"{says} from the export")
            elif size <= self._at and held not in self._compared and self._tree is not None:
                self._find(None, f"{held.label} of size {size} cannot be compared: ask for an export with ?held={size}")

    def _find(self, position: int | None, says: str) -> None:
        self.found += 1
        if len(self.findings) < MAX_KEPT:
            self.findings.append(Finding(position, says))


def leaf_of_line(position: int, line: Line) -> Leaf | None:
    """The leaf that a row's line makes; None when something is missing for one."""
    if line.stream is None or line.version is None or line.stored is None:
        return None
    if line.clear is msgspec.UNSET:
        return UnreadableLeaf(position, line.stream, line.version, line.type, line.stored)
    try:
        return msgspec.convert(
            (
                position,
                line.stream,
                line.version,
                line.type,
                line.class_version,
                line.at_us,
                line.actor,
                line.correlation_id,
                line.causation,
                line.key,
                sha256(bytes(line.clear)),
                line.commitment,
                line.stored,
            ),
            EventLeaf,
        )
    except msgspec.ValidationError:
        return None


def _says_one_thing(line: Line) -> bool:
    """Whether it holds nothing that is not verified: another reader could take that for what it says."""
    if line.position is None:
        kinds = (
            Line(export=line.export),
            Line(end=line.end),
            Line(skipped=line.skipped, hashes=line.hashes),
            Line(gap=line.gap, leaf=line.leaf),
        )
        return line in kinds
    if line.export or line.end is not None or line.skipped or line.hashes is not None or line.gap is not None:
        return False
    if line.clear is not msgspec.UNSET:
        return line.salt is None or line.sealed is not msgspec.UNSET
    return line == Line(
        position=line.position,
        stream=line.stream,
        version=line.version,
        type=line.type,
        stored=line.stored,
        unreadable=line.unreadable,
        leaf=line.leaf,
    )


def _said(line: Line) -> str:
    row = f"stream {line.stream}, version {line.version}, {line.type}"
    return f"{row} ({line.unreadable})" if line.unreadable else row


def _frontier(header: Header) -> Frontier:
    """What comes before an export. Raises BadProof, ValueError."""
    if header.after < 0:
        raise ValueError("nothing comes before the first position")
    tree = Frontier()
    tree.extend(header.after, _hashes(header.hashes))
    return tree


def _hashes(texts: Iterable[str]) -> list[bytes]:
    """Raises ValueError."""
    hashes = [_unhexed(text) for text in texts]
    if any(len(item) != HASH for item in hashes):
        raise ValueError("a hash has 32 bytes")
    return hashes


def _committed(salt: str | None, sealed: bytes) -> str | None:
    """None for what no event is committed to."""
    try:
        known = _unhexed(salt or "")
    except ValueError:
        return None
    return hashlib.sha256(known + sealed).hexdigest() if len(known) == SALT else None


def _unhexed(text: str) -> bytes:
    """As it is exported and not otherwise, so that any byte of a file counts. Raises ValueError."""
    found = bytes.fromhex(text)
    if found.hex() != text:
        raise ValueError("not in lower case, or with spaces in it")
    return found


def _own_key(vkey: str) -> VerifierKey | None:
    try:
        return VerifierKey.parse(vkey)
    except BadNote:
        return None


def checkpoint_of(note: str) -> Checkpoint:
    """Raises BadNote."""
    return Checkpoint.parse(split_note(note)[0])
