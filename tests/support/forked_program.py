"""A program `testhide` for shell commands, whose verbs run in forked processes."""

import contextlib
import json
import shutil
import socket
import sys
import tempfile
import threading
from collections.abc import Iterator
from pathlib import Path

from tests.support.forked_process import run_for

PROGRAM = """\
#!{python} -IS
import json, os, socket, sys

if sys.argv[1:2] == ["up"]:  # a stack starts processes of its own
    os.execv({real!r}, sys.argv)
with socket.socket(socket.AF_UNIX) as connection:
    connection.connect({address!r})
    request = [os.getpid(), os.getcwd(), dict(os.environ), *sys.argv[1:]]
    connection.sendall(json.dumps(request).encode())
    connection.shutdown(socket.SHUT_WR)
    sys.exit(int(connection.makefile().read()))
"""


@contextlib.contextmanager
def forked_program() -> Iterator[Path]:
    """Yields a folder for the PATH of shell commands, with a program `testhide`. The program runs each verb but `up`
    in a process that is forked from one with all imports, and reads and writes what the program would.
    """
    folder = Path(tempfile.mkdtemp(prefix="testhide-program-"))
    address = str(folder / "socket")
    real = shutil.which("testhide", path=str(Path(sys.executable).parent))
    assert real is not None
    program = folder / "testhide"
    program.write_text(PROGRAM.format(python=sys.executable, real=real, address=address))
    program.chmod(0o700)
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(address)
        listener.listen()
        thread = threading.Thread(target=_serve, args=(listener,), daemon=True)
        thread.start()
        try:
            yield folder
        finally:
            listener.shutdown(socket.SHUT_RDWR)  # ends `accept`
            thread.join()
            shutil.rmtree(folder)


def _serve(listener: socket.socket) -> None:
    while True:
        try:
            connection, _ = listener.accept()
        except OSError:
            return
        threading.Thread(target=_answer, args=(connection,), daemon=True).start()


def _answer(connection: socket.socket) -> None:
    with connection, connection.makefile() as sent:
        pid, folder, environ, *arguments = json.load(sent)
        code = run_for(pid, Path(folder), arguments, environ)
        connection.sendall(str(code).encode())
