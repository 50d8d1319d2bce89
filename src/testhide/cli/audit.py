"""`testhide audit`: verify an export from its files, print checkpoints and keys, change the signing key."""

from collections.abc import Iterator
from pathlib import Path

from cyclopts import App

from commands.audit import new_signing_key
from commands.handler import CommandContext, Handler
from domain.audit import SIGNING_KEY, SigningKeyChanged
from store.audit.checkpoints import AuditTree
from store.audit.export_lines import ExportHeader
from store.audit.signed_notes import BadNote, VerifierKey
from store.audit.verifier import HeldCheckpoint, Verifier, checkpoint_of
from store.clock import utcnow
from testhide.cli.options import on_stack
from testhide.cli.printing import printable
from testhide.operator_errors import Fault
from testhide.processes import Core

app = App(name="audit", help="Proof that the log was not altered.")

MAX_PRINTED = 50
"""Findings that `verify` prints; the rest is counted."""


@app.command
def verify(export: Path, *, checkpoint: list[Path] | None = None, key: Path | None = None) -> int:
    """Verify an export of the audit log. Needs these files alone; ends with 1 when anything was altered.

    Parameters
    ----------
    export
        What GET /api/v3/audit/export answered.
    checkpoint
        A checkpoint that was kept elsewhere; several narrow down where something was altered.
    key
        The verifier key of the log's first checkpoints (or of the oldest that is trusted).
    """
    trusted = None if key is None else read_key(key)
    held = [read_checkpoint(file) for file in checkpoint or ()]
    verifier = Verifier(trusted, held)
    try:
        with export.open("rb") as lines:
            verifier.verify(lines)
    except OSError as error:
        raise Fault(f"{export} cannot be read: {error}", 2) from None
    for finding in verifier.findings[:MAX_PRINTED]:
        print(printable(str(finding)))
    if verifier.found > MAX_PRINTED:
        print(f"and {verifier.found - MAX_PRINTED} more")
    if verifier.header is not None:
        print("\n".join(map(printable, _summarize(verifier, verifier.header))))
    if trusted is None and not held:
        print("compared with nothing from elsewhere: only a checkpoint or key kept outside rules out a forged export")
    print("ALTERED or incomplete" if verifier.found else "verified: nothing was altered")
    return 1 if verifier.found else 0


@app.command(name="checkpoint")
@on_stack
async def newest_checkpoint(parts: Core) -> int:
    """Print the newest checkpoint, to be kept elsewhere."""
    newest = await AuditTree(parts.pool).checkpoint()
    if newest is None:
        raise Fault("The log has no checkpoint yet: `testhide work` makes the first a few seconds after its start.")
    print(newest.note, end="")
    return 0


@app.command
@on_stack
async def keys(parts: Core) -> int:
    """Print the verifier keys of the log's checkpoints, the first one first; the last one signs."""
    changes = (await parts.log.load([SIGNING_KEY.name]))[SIGNING_KEY.name]
    if not changes:
        raise Fault("The log has no signing key yet: `testhide work` makes the first at its start.")
    print("\n".join(change.event.public_key for change in changes if isinstance(change.event, SigningKeyChanged)))
    return 0


@app.command
@on_stack
async def rotate_key(parts: Core) -> int:
    """Make a new signing key and print its verifier key.

    The next checkpoint, signed by the old one, hands over to it.
    """
    handler, caller = Handler(parts.log, utcnow), CommandContext("system:operator")
    print(await new_signing_key(handler, parts.log, parts.pool, parts.secrets, caller))
    return 0


def read_checkpoint(file: Path) -> HeldCheckpoint:
    """Read a file with one signed checkpoint. Raises Fault."""
    note = _read_text(file)
    try:
        return HeldCheckpoint(f"checkpoint {file}", note, checkpoint_of(note))
    except BadNote as error:
        raise Fault(f"{file}: {error}.", 2) from None


def read_key(file: Path) -> VerifierKey:
    """Read a verifier key from the first line of a file. Raises Fault."""
    try:
        return VerifierKey.parse(_read_text(file).strip().partition("\n")[0])
    except BadNote as error:
        raise Fault(f"{file}: {error}.", 2) from None


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise Fault(f"{file} cannot be read: {error}", 2) from None


def _summarize(verifier: Verifier, header: ExportHeader) -> Iterator[str]:
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
