"""The entry point `testhide`: runs a command, and turns an error into a sentence and an exit code.

A server process runs without the parser of the command line, whose modules would stay in its memory.
"""

import contextlib
import os
import signal
import sys
import traceback
from collections.abc import Sequence
from typing import NoReturn

from domain.core.errors import StreamDamaged
from testhide.cli.processes import PROCESSES, run_agent, run_process
from testhide.operator_errors import Fault


def run() -> NoReturn:
    """Run `main` on the arguments of this process, and end the process with the exit code.

    Skips Python's finalization, which ends all other threads. If it ended a thread of obstore, which is written in
    Rust, Rust would abort the process, and the exit code would be lost.
    """
    code = 1
    try:
        code = main()
    except SystemExit as ended:  # raised by the parser
        code = ended.code if isinstance(ended.code, int) else int(ended.code is not None)
    except BaseException:
        traceback.print_exc()
    for stream in (sys.stdout, sys.stderr):
        with contextlib.suppress(OSError):
            print(end="", file=stream, flush=True)
    os._exit(code)


def main(argv: Sequence[str] | None = None) -> int:
    arguments = list(sys.argv[1:] if argv is None else argv)
    try:
        if len(arguments) == 1 and arguments[0] in PROCESSES:
            return run_process(arguments[0])
        if arguments[:1] == ["agent"]:
            return run_agent(*arguments[1:])
        return _run_verb(arguments)
    except Fault as fault:
        print(f"testhide: {fault}", file=sys.stderr)
        return fault.exit_code
    except StreamDamaged as error:
        print(f"testhide: {error.detail}", file=sys.stderr)
        return 1
    except OSError as error:
        if error.filename is None and error.errno is None:
            raise
        print(f"testhide: {error.strerror or error}: {error.filename or ''}".rstrip(": "), file=sys.stderr)
        return 1
    except KeyboardInterrupt:
        return 130


def _run_verb(arguments: list[str]) -> int:
    from psycopg import OperationalError

    from testhide.cli.app import app

    try:
        result = app(arguments, result_action="return_value")
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever read the output, `head` for example, has had enough. Python writes the rest once more at its end.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return 128 + signal.SIGPIPE
    except OperationalError as error:  # its disk is full, for example
        raise Fault(f"The database failed: {str(error).strip().partition(chr(10))[0]}") from None
    return result if isinstance(result, int) else 0
