"""Verifies an export of the log offline. The verifier needs only the lines of the export: no database, settings or
server.

It builds a Merkle tree from the lines, in the order of their positions. This takes O(log n) memory, and a few bytes per
stream for the stream's version. When the tree has the size of a checkpoint, the tree's root must be the checkpoint's
root. If a row was changed, the content of the row's line does not hash to the line's leaf, so the verifier can name the
position.
"""

from collections.abc import Iterable
from dataclasses import dataclass

import msgspec

from domain.audit import SIGNING_KEY, SigningKeyChanged
from store.audit.erasures import Erasures
from store.audit.export_lines import ExportHeader, ExportLine, commitment_of, is_unambiguous, leaf_of_line, parse_hash
from store.audit.leaves import GapLeaf, hash_of
from store.audit.merkle import BadProof, Frontier
from store.audit.signed_notes import BadNote, Checkpoint, VerifierKey, open_note, split_note

MAX_FINDINGS = 1_000
"""Largest number of findings that are kept in memory. One changed position may cause a million findings."""


@dataclass(frozen=True)
class HeldCheckpoint:
    """A checkpoint that the export must agree with. It comes from the reader or from the export's header."""

    label: str
    note: str
    checkpoint: Checkpoint
    is_handover: bool = False


@dataclass(frozen=True)
class Finding:
    position: int | None
    text: str

    def __str__(self) -> str:
        return self.text if self.position is None else f"position {self.position}: {self.text}"


class Verifier:
    """Verifies one export and collects its findings.

    `key` is the signing key to trust; None trusts the first key in the export's header. An event in the log announces
    each later signing key. The verifier trusts such a key as soon as a trusted key has signed a checkpoint that covers
    the event. `held` are checkpoints that the reader already has.
    """

    def __init__(self, key: VerifierKey | None = None, held: Iterable[HeldCheckpoint] = ()) -> None:
        self.key = key
        self.findings: list[Finding] = []
        """The first MAX_FINDINGS findings. `found` counts all findings."""
        self.found = self.events = self.erased = self.withheld = self.gaps = self.left_out = 0
        self.header: ExportHeader | None = None
        self.agreed: list[HeldCheckpoint] = []
        """Checkpoints whose root the export reproduces."""
        self._held = list(held)
        self._compared: list[HeldCheckpoint] = []
        self._at = self._last_covered = 0
        self._tree: Frontier | None = Frontier()
        """The tree over the lines that were read so far. None once lines are missing, since then no root can be
        computed.
        """
        self.begins_at = 1
        """The first position that the export covers."""
        self._has_ended = False
        self._is_after_header = self._is_after_end = False
        self.erasures = Erasures()
        self._versions: dict[str, int] = {}
        self._later_keys: list[tuple[int, VerifierKey]] = []

    def verify(self, lines: Iterable[bytes]) -> None:
        for number, text in enumerate(lines, 1):
            try:
                line = msgspec.json.decode(text, type=ExportLine)
                if msgspec.json.encode(line) != text.removesuffix(b"\n"):
                    # If a field occurs twice, another program might read the value that is not verified here.
                    self._report(None, f"line {number} is not written as an export writes it")
                if not is_unambiguous(line):
                    self._report(None, f"line {number} says more than one thing")
                self._read(line, number)
            except (msgspec.MsgspecError, UnicodeDecodeError, RecursionError):
                self._report(None, f"line {number} is no whole line of an export")
        self._finish()

    def _read(self, line: ExportLine, number: int) -> None:
        was_after_header, self._is_after_header = self._is_after_header, line.export is not None
        if self._is_after_end and line.export is None:
            self._report(None, f"line {number} comes after the end of the export")
        if line.export is not None:
            if was_after_header:
                self._report(None, f"line {number} is a second header: nothing of the export stands between them")
            self._begin(line.export, number)
        elif self.header is None:
            self._report(None, f"line {number} comes before the export's header")
        elif line.end is not None:
            self._is_after_end = True
            self._has_ended = line.end == self._at == self.header.size
        elif line.later_erasures is not None:
            self.erasures.read_later(line.later_erasures)
        elif line.skipped is not None:
            self._read_skipped(*line.skipped, line.hashes or [])
        elif line.gap is not None:
            self._read_gap(line.gap, line.leaf or "")
        elif line.position is not None:
            self._read_row(line.position, line)
        else:
            self._report(None, f"line {number} says nothing that an export says")

    # Headers. A header in the middle of a file continues an export that was cut off.

    def _begin(self, header: ExportHeader, number: int) -> None:
        try:
            before: Frontier | None = _frontier(header)
        except (BadProof, ValueError):
            self._report(None, "the header's hashes are not those of what comes before the export")
            before = None
        if self.header is None:
            self._at, self._tree, self.begins_at = header.after, before, header.after + 1
            if self.key is None and header.keys:
                self.key = _parse_key(header.keys[0])
        else:
            self._continue(header, self.header, before, number)
        self.header, self._has_ended, self._is_after_end = header, False, False
        self._add_checkpoints(header)
        self._compare_checkpoints()

    def _continue(self, header: ExportHeader, first: ExportHeader, before: Frontier | None, number: int) -> None:
        if (header.origin, header.filter) != (first.origin, first.filter):
            self._report(None, f"the export goes on after position {header.after} with another log or filter")
        if header.after > self._at:
            self._report(self._at + 1, f"missing in the export, up to {header.after}")
            self._at, self._tree = header.after, before
        elif header.after == self._at and self._tree and before and before.root != self._tree.root:
            self._report(None, f"the export goes on after position {header.after} of a log that was another there")
        elif header.after < self._at:
            text = f"line {number} is a header that goes on after position {header.after}, but {self._at} was reached"
            self._report(None, text)

    def _add_checkpoints(self, header: ExportHeader) -> None:
        self._last_covered = header.size
        known = {held.note for held in self._held}
        handovers = [("the export's handover", note, True) for note in header.handovers]
        for label, note, is_handover in [*handovers, ("the export's own", header.checkpoint, False)]:
            try:
                checkpoint = checkpoint_of(note)
                if note not in known:
                    self._held.append(HeldCheckpoint(f"{label} checkpoint", note, checkpoint, is_handover))
                if not is_handover and checkpoint.size != header.size:
                    self._last_covered = min(self._last_covered, checkpoint.size)
                    self._report(None, "the header's size is not that of its checkpoint")
            except BadNote as error:
                self._report(None, f"{label} checkpoint: {error}")
        for held in self._held:
            if held.checkpoint.origin != header.origin:
                self._report(None, f"{held.label} is about another log, {held.checkpoint.origin}")

    # Rows, gaps and ranges.

    def _read_gap(self, position: int, leaf: str) -> None:
        if not self._append(position, leaf):
            return
        self.gaps += 1
        if hash_of(GapLeaf(position)).hex() != leaf:
            self._report(position, "the row that was sealed here is gone")
        self._compare_checkpoints()

    def _read_row(self, position: int, line: ExportLine) -> None:
        if position < 1:
            self._report(position, f"was inserted, since the log begins at 1: {_describe(line)}")
            return
        if not self._append(position, line.leaf or ""):
            return
        self.events += 1
        leaf = leaf_of_line(position, line)
        if leaf is None or hash_of(leaf).hex() != line.leaf:
            was_empty = hash_of(GapLeaf(position)).hex() == line.leaf
            fault = "was inserted where nothing was" if was_empty else "is not the row that was sealed here"
            self._report(position, f"{fault}: {_describe(line)}")
        elif line.unreadable is not None or line.clear is msgspec.UNSET:
            self._report(position, f"is the row that was sealed here, but cannot be read: {line.unreadable}")
        else:
            if line.withheld:
                self.withheld += 1
            elif line.sealed is msgspec.UNSET:
                self.erased += bool(line.commitment)
            elif commitment_of(line.salt, bytes(line.sealed)) != line.commitment:
                self._report(position, "the sealed fields are not those that the event was committed to")
            self.erasures.read(position, line, self._last_covered)
            self._note_key(position, line)
        self._check_version(position, line)
        self._compare_checkpoints()

    def _check_version(self, position: int, line: ExportLine) -> None:
        stream, version = line.stream or "", line.version or 0
        last = self._versions.get(stream, 0 if self.begins_at == 1 else version - 1)
        if version != last + 1:
            self._report(
                position, f"stream {stream} goes from version {last} to {version}: an event is missing or moved"
            )
        self._versions[stream] = version

    def _note_key(self, position: int, line: ExportLine) -> None:
        if (line.stream, line.type) == (SIGNING_KEY.name, SigningKeyChanged.name) and line.clear is not msgspec.UNSET:
            key = _parse_key(str(msgspec.json.decode(line.clear).get("public_key", "")))
            if key is not None:
                self._later_keys.append((position, key))

    def _read_skipped(self, first: int, last: int, hashes: list[str]) -> None:
        assert self.header is not None
        if not self.header.filter:
            self._report(first, f"up to {last}: left out of an export of the whole log")
        if first != self._at + 1 or last < first:
            self._report(first, "does not follow the line before: lines are missing, or in another order")
            self._tree = None
        elif self._tree is not None:
            try:
                self._tree.extend(last, [*map(parse_hash, hashes)])
            except (BadProof, ValueError):
                self._report(first, f"up to {last}: the hashes of what is left out do not fit")
                self._tree = None
        self._must_be_covered(last)
        self.left_out += max(0, last - self._at)
        self._at = max(self._at, last)
        self._compare_checkpoints()

    def _append(self, position: int, leaf: str) -> bool:
        """Adds the leaf of a position to the tree. Returns False for a position that was read before."""
        if position <= self._at:
            self._report(position, "is there more than once, or in another order")
            return False
        if position > self._at + 1:
            last = position - 1
            self._report(self._at + 1, f"missing in the export{f', up to {last}' if last > self._at + 1 else ''}")
            self._tree = None
        self._must_be_covered(position)
        self._at, self._has_ended = position, False
        if self._tree is not None:
            try:
                self._tree.append(parse_hash(leaf))
            except ValueError:
                self._report(position, "the hash of its leaf is none")
                self._tree = None
        return True

    def _must_be_covered(self, position: int) -> None:
        if position > self._last_covered:
            self._report(position, "is not covered by the export's own checkpoint")

    # Checkpoints.

    def _compare_checkpoints(self) -> None:
        """Compares the root of the tree with the root of each checkpoint that has the tree's size.

        If a checkpoint agrees and a trusted key signed it, trusts the newest signing key that the log announces up to
        this size.
        """
        here = [held for held in self._held if held.checkpoint.size == self._at and held not in self._compared]
        if not here or self._tree is None:
            return
        self._compared += here
        root = self._tree.root
        matching = [held for held in here if held.checkpoint.root == root]
        for held in here:
            if held not in matching:
                self._report(None, self._describe_difference(held))
        self.agreed += matching
        signed = [held for held in matching if self._is_signed(held)]
        for position, key in self._later_keys if signed else ():
            if position <= self._at:
                self.key = key

    def _describe_difference(self, held: HeldCheckpoint) -> str:
        agreed = max((one.checkpoint.size for one in self.agreed), default=0)
        where = f"the tree from position {agreed + 1} to {held.checkpoint.size} is not the one that {held.label} signed"
        return f"{where} ({held.checkpoint.time:%Y-%m-%d %H:%M:%S} UTC): rows and their hashes were replaced together"

    def _is_signed(self, held: HeldCheckpoint) -> bool:
        if self.key is None:
            self._report(None, f"{held.label}: the export names no signing key; give it by --key")
            return False
        try:
            open_note(held.note, [self.key])
        except BadNote as error:
            if not held.is_handover:  # the key it hands over to may be trusted already
                self._report(None, f"{held.label}: {error}")
            return False
        return True

    def _finish(self) -> None:
        if self.header is None:
            self._report(None, "this is no export: it has no header")
            return
        if self._is_after_header:
            self._report(None, "the export ends with a header: ask for what follows it once more")
        elif not self._has_ended:
            self._report(None, f"the export is cut off after position {self._at}: go on by ?after={self._at}")
        self._check_erasures(self.header.filter)
        for position, key in sorted(self.erasures.undone):
            self._report(
                position,
                f"deletes the data key {key}, but events that it encrypted are readable: the key is there again in the"
                " database, or the values were added to the file",
            )
        for held in self._held:
            size = held.checkpoint.size
            asked_at = self.header.asked_at
            if size > self._at and self._has_ended and asked_at and held.checkpoint.time > asked_at:
                self._report(
                    None,
                    f"{held.label} of size {size} cannot be compared: it was signed at"
                    f" {held.checkpoint.time:%Y-%m-%d %H:%M:%S} UTC, and the export was asked for before that, at"
                    f" {asked_at:%Y-%m-%d %H:%M:%S} UTC; ask for a new export",
                )
            elif size > self._at and self._has_ended:
                text = f"the log ends at {self._at}, but {held.label} covers it up to {size}: its tail was removed"
                self._report(None, text if size > self.header.size else f"{text} from the export")
            elif size <= self._at and held not in self._compared and self._tree is not None:
                self._report(
                    None, f"{held.label} of size {size} cannot be compared: ask for an export with ?held={size}"
                )

    def _check_erasures(self, chosen: dict[str, str]) -> None:
        """Reports events that read as erased although no event destroyed their data key. Skips an export of one stream,
        which lacks the deletions in other streams, and an export that is cut off.
        """
        if not self._has_ended or "stream" in chosen:
            return
        project = chosen.get("project_id")
        for position, key, events in self.erasures.unexplained(project and f"project-{project}"):
            self._report(
                position,
                f"reads as erased, but no event deletes its data key {key} ({events} events have it): the key was"
                " destroyed in the database, or the values were taken out of the file",
            )

    def _report(self, position: int | None, text: str) -> None:
        self.found += 1
        if len(self.findings) < MAX_FINDINGS:
            self.findings.append(Finding(position, text))


def _describe(line: ExportLine) -> str:
    row = f"stream {line.stream}, version {line.version}, {line.type}"
    return f"{row} ({line.unreadable})" if line.unreadable else row


def _frontier(header: ExportHeader) -> Frontier:
    """Returns the tree over the positions before the export, built from the header's hashes. Raises BadProof or
    ValueError if these hashes are not those of a tree of `header.after` leaves.
    """
    if header.after < 0:
        raise ValueError("nothing comes before the first position")
    tree = Frontier()
    tree.extend(header.after, [*map(parse_hash, header.hashes)])
    return tree


def _parse_key(vkey: str) -> VerifierKey | None:
    try:
        return VerifierKey.parse(vkey)
    except BadNote:
        return None


def checkpoint_of(note: str) -> Checkpoint:
    """Returns the checkpoint in a signed note, without verifying the signature. Raises BadNote if the note is no
    checkpoint.
    """
    return Checkpoint.parse(split_note(note)[0])
