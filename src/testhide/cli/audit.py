"""`testhide audit ...`: verifying an export, which needs its files alone, and the keys and checkpoints of a log."""

from collections.abc import Iterable, Iterator
from pathlib import Path

from domain.sealing import SIGNING_KEY, SigningKeyChanged
from store.audit.checkpoints import AuditTree
from store.audit.export_lines import ExportHeader
from store.audit.signed_notes import BadNote, VerifierKey
from store.audit.verifier import HeldCheckpoint, Verifier, checkpoint_of
from testhide.cli.printing import printable
from testhide.operator_errors import Fault
from testhide.settings import Settings

SHOWN = 50


def read_checkpoint(file: Path) -> HeldCheckpoint:
    """Raises Fault."""
    note = _text(file)
    try:
        return HeldCheckpoint(f"checkpoint {file}", note, checkpoint_of(note))
    except BadNote as error:
        raise Fault(f"{file}: {error}.", 2) from None


def read_key(file: Path) -> VerifierKey:
    """Of the file's first line. Raises Fault."""
    try:
        return VerifierKey.parse(_text(file).strip().partition("\n")[0])
    except BadNote as error:
        raise Fault(f"{file}: {error}.", 2) from None


def _text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Fault(f"{file} cannot be read: {error}", 2) from None


def verify(export: Path, checkpoints: Iterable[Path], key: Path | None) -> int:
    """`testhide audit verify`; prints what it finds. The exit code: 1 when there is anything. Raises Fault."""
    given = None if key is None else read_key(key)
    held = [read_checkpoint(file) for file in checkpoints]
    verifier = Verifier(given, held)
    try:
        with export.open("rb") as lines:
            verifier.verify(lines)
    except OSError as error:
        raise Fault(f"{export} cannot be read: {error}", 2) from None
    for finding in verifier.findings[:SHOWN]:
        print(printable(str(finding)))
    if verifier.found > SHOWN:
        print(f"and {verifier.found - SHOWN} more")
    if verifier.header is not None:
        print("\n".join(map(printable, summary(verifier, verifier.header))))
    if given is None and not held:
        print("compared with nothing from elsewhere: only a checkpoint or key kept outside rules out a forged export")
    print("ALTERED or incomplete" if verifier.found else "verified: nothing was altered")
    return 1 if verifier.found else 0


def summary(verifier: Verifier, header: ExportHeader) -> Iterator[str]:
    chosen = ", ".join(f"{name} {value}" for name, value in header.filter.items()) or "the whole log"
    begins = verifier.begins_at
    covers = f"from position {begins} to {header.size}; what comes before is not in it"
    yield f"log {header.origin}: {chosen}, {covers if begins > 1 else f'up to position {header.size}'}"
    yield (
        f"{verifier.events} events ({verifier.erased} of them erased), {verifier.gaps} empty positions,"
        f" {verifier.left_out} left out"
    )
    for held in verifier.agreed:
        at = held.checkpoint
        yield f"agrees with {held.label}: size {at.size}, {at.time:%Y-%m-%d %H:%M:%S} UTC"
    yield f"findings: {verifier.found}"


async def print_checkpoint(settings: Settings) -> int:
    """The newest one, as a file that `verify` takes."""
    from testhide.processes import core

    async with core(settings, pool_size=1) as parts:
        newest = await AuditTree(parts.pool).checkpoint()
    if newest is None:
        raise Fault("The log has no checkpoint yet: `testhide work` makes the first a few seconds after its start.")
    print(newest.note, end="")
    return 0


async def print_keys(settings: Settings) -> int:
    """Verifier keys, the first one first; the last one signs."""
    from testhide.processes import core

    async with core(settings, pool_size=1) as parts:
        changes = (await parts.log.load([SIGNING_KEY.name]))[SIGNING_KEY.name]
    if not changes:
        raise Fault("The log has no signing key yet: `testhide work` makes the first at its start.")
    print("\n".join(change.event.public_key for change in changes if isinstance(change.event, SigningKeyChanged)))
    return 0


async def rotate_key(settings: Settings) -> int:
    from commands.handler import CommandContext, Handler
    from commands.sealing import new_signing_key
    from store.clock import utcnow
    from testhide.processes import core

    async with core(settings, pool_size=2) as parts:
        handler, caller = Handler(parts.log, utcnow), CommandContext("system:operator")
        print(await new_signing_key(handler, parts.log, parts.pool, parts.secrets, caller))
    return 0
