"""`testhide audit`: verifies exports, prints checkpoints and keys, changes the signing key, and mends rows of the
log.
"""

import codecs
import contextlib
import gzip
import shlex
import zlib
from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Annotated

from cyclopts import App, Parameter
from psycopg import AsyncConnection, OperationalError, ProgrammingError

from commands.audit import AcceptRow, new_signing_key
from commands.handler import CommandContext, Handler
from domain.audit import SIGNING_KEY, SigningKeyChanged
from domain.core.errors import Unavailable
from projections.registry import PROJECTIONS
from store.audit.checkpoints import AuditTree, leaf_hash_of
from store.audit.export_lines import ExportHeader
from store.audit.put_back import NotPutBack, put_rows_back
from store.audit.signed_notes import BadNote, VerifierKey
from store.audit.verifier import HeldCheckpoint, Verifier, checkpoint_of
from store.clock import utcnow
from store.log.ids import MAX_GAP, use_positions
from store.log.row_macs import has_right_mac
from testhide.adapters import blob_store
from testhide.audit_contents import ContentsCheck
from testhide.cli.options import DataFolder, Flag, on_stack, run_on_stack
from testhide.cli.printing import printable
from testhide.operator_errors import Fault
from testhide.operator_name import find_operator
from testhide.processes import Core, core
from testhide.settings import Settings
from testhide.stack.offline import settings_of

app = App(name="audit", help="Verify that nobody altered the log; manage signing keys and checkpoints.")

GZIP = b"\x1f\x8b"
"""The first bytes of a file that gzip has compressed."""
NOT_PROVED = 3
"""Exit code of `verify` if contents of events are missing, and only deletions after the export's checkpoint explain
this. The checkpoint does not cover these deletions, so anybody may have written them into the export.
"""
MAX_PUT_BACK = 10_000
"""Largest number of rows that one command puts back."""
MAX_PRINTED = 50
"""Largest number of findings that `verify` prints. It counts the rest."""
MAX_KEYS = 10
"""Largest number of data keys that `verify` prints on one line. It counts the rest."""


@app.command
def verify(
    export: Path | None = None,
    *,
    checkpoint: Annotated[list[Path] | None, Parameter(negative=())] = None,
    key: Path | None = None,
    unpinned: Flag = False,
    contents: Flag = False,
    data: DataFolder = None,
) -> int:
    """Verify an export of the audit log. With --contents, compare this server's other stored data with its log instead.

    Verifying an export needs no server, only the files that are named here. Ends with 1 if anything was altered. Ends
    with 3 if nothing was altered but contents of events are missing, and only a deletion after the export's checkpoint
    explains this.

    Parameters
    ----------
    export
        A file with the answer of GET /api/v3/audit/export, plain or compressed by gzip.
    checkpoint
        A checkpoint that was kept elsewhere. Several checkpoints narrow down where something was altered.
    key
        The oldest verifier key of the log that you trust.
    unpinned
        Verify without a checkpoint or key from elsewhere. This shows only that the file agrees with itself.
    contents
        Compare build logs, artifacts, and the URLs of webhooks and of Teams channels, with the log.
    """
    if contents:
        if export or checkpoint or key or unpinned:
            raise Fault("--contents compares what this server has: give nothing else with it.", 2)
        return run_on_stack(data, verify_contents)
    if export is None:
        raise Fault("Give an export, or --contents to compare what this server stores beside its log.", 2)
    if unpinned == bool(key or checkpoint):
        raise Fault(
            "Give --key or --checkpoint with what was kept outside the server: without them, a file that was forged and"
            " signed anew verifies. --unpinned, without these two, verifies only that the file agrees with itself.",
            2,
        )
    trusted = None if key is None else read_key(key)
    held = [read_checkpoint(file) for file in checkpoint or ()]
    verifier = Verifier(trusted, held)
    verifier.verify(read_export(export))
    for finding in verifier.findings[:MAX_PRINTED]:
        print(printable(str(finding)))
    if verifier.found > MAX_PRINTED:
        print(f"and {verifier.found - MAX_PRINTED} more")
    if verifier.header is not None:
        print("\n".join(map(printable, _summarize(verifier, verifier.header))))
    if verifier.found:
        print("ALTERED or incomplete")
        return 1
    if verifier.erasures.claimed:
        print("nothing was altered, but not everything is proved (above): a later export has these deletions")
        return NOT_PROVED
    agrees = "the file agrees with itself; nobody from elsewhere vouches for it, so it may be forged as a whole"
    print(agrees if unpinned else "verified: nothing was altered")
    return 0


@app.command(name="checkpoint")
@on_stack
async def newest_checkpoint(parts: Core) -> int:
    """Print the newest checkpoint, to store it outside of this server."""
    newest = await AuditTree(parts.pool).checkpoint()
    if newest is None:
        raise Fault("The log has no checkpoint yet: `testhide work` makes the first a few seconds after its start.")
    print(newest.note, end="")
    return 0


@app.command
@on_stack
async def keys(parts: Core) -> int:
    """Print the verifier keys of the log's checkpoints, oldest first. The last one verifies new checkpoints."""
    changes = (await parts.log.load([SIGNING_KEY.name]))[SIGNING_KEY.name]
    if not changes:
        raise Fault("The log has no signing key yet: `testhide work` makes the first at its start.")
    print("\n".join(change.event.public_key for change in changes if isinstance(change.event, SigningKeyChanged)))
    return 0


@app.command
@on_stack
async def rotate_key(parts: Core) -> int:
    """Make a new signing key and print its verifier key.

    The old key signs the next checkpoint, which covers this change. The new key signs all later ones.
    """
    handler, caller = Handler(parts.log, utcnow), CommandContext("system:operator")
    print(await new_signing_key(handler, parts.log, parts.pool, parts.secrets, caller))
    return 0


@app.command
def put_back(
    first: int,
    last: int | None = None,
    *,
    source: Annotated[str, Parameter(name="--from")],
    data: DataFolder = None,
) -> int:
    """Put rows of the log back as they were, from a restored backup. Changes nothing if the backup lacks the right row
    for one of the positions.

    Parameters
    ----------
    first
        Position of the row, as `readyz` or `verify` shows it.
    last
        Position of the last row, to put several rows back.
    source
        Data folder of a backup that `testhide restore` restored, or the URL of its database.
    """
    positions = range(first, (last or first) + 1)
    if not 0 < len(positions) <= MAX_PUT_BACK or first < 1:
        raise Fault(f"Give one position, or the first and the last of {MAX_PUT_BACK:,} at most.", 2)

    async def work(settings: Settings) -> int:
        async with core(settings, pool_size=2) as parts:
            with _source(source) as conninfo:
                try:
                    async with await AsyncConnection.connect(conninfo, autocommit=True) as other:
                        done = await put_rows_back(parts.pool, parts.secrets, other, positions)
                except (OperationalError, ProgrammingError) as error:
                    raise Fault(
                        f"--from names no data folder, and no database that can be reached: {str(error).strip()}", 2
                    ) from None
                except NotPutBack as error:
                    raise Fault(f"Nothing was changed: {error}.") from None
        print(f"put back: {', '.join(map(str, done.positions)) or 'nothing, all of them are as they were'}")
        if names := [projection.name for projection in PROJECTIONS if projection.handles_any(done.types)]:
            print(
                "If read models were built while these rows were missing or altered, by a rebuild or a new release,"
                " they still lack them. Build those that show such events again:"
            )
            options = f"--from-scratch --switch{'' if data is None else f' --data {shlex.quote(str(data))}'}"
            print(f"  testhide projections rebuild {' '.join(names)} {options}")
        return 0

    return run_on_stack(data, work)


@app.command
@on_stack
async def accept(parts: Core, position: int, *, reason: str) -> int:
    """Accept a row of the log that somebody changed or inserted, so that the next checkpoint covers it as it is now. If
    a backup has the row as the server wrote it, use `put-back` instead.

    The audit trail says who accepted the row and why. Changes nothing and ends with 1 if there is no such row, if the
    row is sealed already, or if it is as the server wrote it.

    Parameters
    ----------
    position
        Position of the row, as `readyz` shows it.
    reason
        Why, for those who read the audit trail.
    """
    row = await AuditTree(parts.pool).row(position)
    if row is None:
        raise Fault(f"There is no row at position {position}.")
    newest = await AuditTree(parts.pool).checkpoint()
    if newest is not None and position <= newest.size:
        raise Fault(f"The row at position {position} is sealed already: only the one that was there can be put back.")
    if has_right_mac(parts.secrets.rows_keys(position), row):
        raise Fault(f"The row at position {position} is as this server wrote it: it needs no acceptance.")
    if position > (head := await parts.log.read_head()) + MAX_GAP:
        raise Fault(
            f"Position {position} is more than {MAX_GAP:,} beyond the log's newest event, at {head}: delete the row."
        )
    if await use_positions(parts.pool, position):
        print(f"set the sequence of positions to {position}: the server's next events come after this row")
    command = AcceptRow(position, leaf_hash_of(position, row).hex(), reason, find_operator())
    await Handler(parts.log, utcnow).execute(command, CommandContext("system:operator"))
    print(f"accepted the row at position {position} as it is: the next checkpoint covers it")
    return 0


async def verify_contents(settings: Settings) -> int:
    found = 0
    async with core(settings, pool_size=2) as parts:
        check = ContentsCheck(parts.log, parts.pool, blob_store(settings))
        try:
            async for damage in check.run():
                found += 1
                print(printable(damage))
        except Unavailable as error:
            raise Fault(error.detail, 2) from None
    counts = f"{check.logs} build logs, {check.artifacts} artifacts with {check.size} bytes"
    print(f"{counts}, {check.endpoints} webhooks and channels; findings: {found}")
    print("ALTERED or incomplete" if found else "verified: all of them are what the log says")
    return 1 if found else 0


@contextlib.contextmanager
def _source(name: str) -> Iterator[str]:
    """Yield the connection string of the database in the data folder `name`. If there is no folder `name`, yield `name`
    itself, which then is the URL of a database.
    """
    if Path(name).is_dir():
        with settings_of(Path(name), {}) as settings:
            yield settings.database_url
    else:
        yield name


def read_export(file: Path) -> Iterator[bytes]:
    """Yield the lines of an export as the server wrote them. The file may be compressed by gzip. Removes a byte order
    mark and Windows line ends, which editors and transfers add. Raises Fault if the file cannot be read.
    """
    try:
        with file.open("rb") as raw:
            begin = raw.peek(2)[:2]
            if begin in (codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE):
                raise Fault(f"{file} is UTF-16: save the export as it comes, not through a shell that recodes it.", 2)
            lines: Iterable[bytes] = gzip.GzipFile(fileobj=raw) if begin == GZIP else raw
            for number, line in enumerate(lines):
                text = line if number else line.removeprefix(codecs.BOM_UTF8)
                yield text[:-2] + b"\n" if text.endswith(b"\r\n") else text
    except (OSError, EOFError, zlib.error) as error:
        raise Fault(f"{file} cannot be read: {error}", 2) from None


def read_checkpoint(file: Path) -> HeldCheckpoint:
    """Return the signed checkpoint in a file. Raises Fault if the file cannot be read or contains no checkpoint."""
    note = _read_text(file)
    try:
        return HeldCheckpoint(f"checkpoint {file}", note, checkpoint_of(note))
    except BadNote as error:
        raise Fault(f"{file}: {error}.", 2) from None


def read_key(file: Path) -> VerifierKey:
    """Return the verifier key on the first line of a file. Raises Fault if the file cannot be read or contains no
    key.
    """
    try:
        return VerifierKey.parse(_read_text(file).strip().partition("\n")[0])
    except BadNote as error:
        raise Fault(f"{file}: {error}.", 2) from None


def _read_text(file: Path) -> str:
    try:
        return file.read_text(encoding="utf-8-sig")
    except (OSError, UnicodeDecodeError) as error:
        raise Fault(f"{file} cannot be read: {error}", 2) from None


def _summarize(verifier: Verifier, header: ExportHeader) -> Iterator[str]:
    chosen = ", ".join(f"{name} {value}" for name, value in header.filter.items()) or "the whole log"
    begins = verifier.begins_at
    covers = f"from position {begins} to {header.size}; what comes before is not in it"
    yield f"log {header.origin}: {chosen}, {covers if begins > 1 else f'up to position {header.size}'}"
    if header.asked_at is not None:
        asked_at = f"{header.asked_at:%Y-%m-%d %H:%M:%S} UTC"
        yield f"not proved: it was asked for at {asked_at}, when the log's newest position was {header.head}"
    if header.head > header.size:
        yield f"not in it: positions {header.size + 1} to {header.head}, which its checkpoint does not cover"
    if claimed := verifier.erasures.claimed:
        keys = f"{', '.join(claimed[:MAX_KEYS])}{' and more' if len(claimed) > MAX_KEYS else ''}"
        yield f"not proved: deletions after its checkpoint destroyed {len(claimed)} data keys ({keys})"
    yield (
        f"{verifier.events} events ({verifier.erased} of them erased), {verifier.gaps} empty positions,"
        f" {verifier.left_out} left out"
    )
    if verifier.withheld:
        yield f"not shown: the sealed fields of {verifier.withheld} events, which contain credentials"
    for held in verifier.agreed:
        at = held.checkpoint
        yield f"agrees with {held.label}: size {at.size}, {at.time:%Y-%m-%d %H:%M:%S} UTC"
    yield f"findings: {verifier.found}"
