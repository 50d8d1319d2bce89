"""Valkey on a unix socket, without persistence: everything durable is in PostgreSQL."""

import contextlib
import os
import socket
from urllib.parse import quote

from testhide.engines.accounts import change_owner
from testhide.engines.binaries import find_valkey
from testhide.engines.folder import DataFolder, write_private
from testhide.supervise.program import Program

# The password is in this file and not in argv, which every account of the machine can read.
_SETTINGS = """\
# Written anew at every start.
port 0
unixsocket "{socket}"
unixsocketperm 700
dir "{home}"
requirepass {password}
save ""
appendonly no
daemonize no
maxmemory 64mb
maxmemory-policy noeviction
timeout 0
"""


class Valkey:
    name = "valkey"

    def __init__(self, folder: DataFolder) -> None:
        self.folder = folder
        self.home = folder.home / "valkey"
        self.socket = folder.sockets / "valkey.sock"

    @property
    def url(self) -> str:
        return f"unix://:{quote(self.folder.record.valkey_password)}@{quote(str(self.socket))}?db=0"

    def program(self) -> Program:
        server = find_valkey(self.folder.home, self.folder.account)
        with contextlib.suppress(FileExistsError):
            self.home.mkdir(mode=0o700)
            change_owner(self.folder.account, self.home)
        return Program(
            self.name,
            (str(server), str(self.home / "valkey.conf")),
            env={"PATH": os.defpath, "LC_ALL": "C", "TZ": "UTC"},
            cwd=self.home,
            account=self.folder.account,
            prepare=self._before_start,
        )

    def ready(self, pid: int) -> bool:
        try:
            with socket.socket(socket.AF_UNIX) as client:
                client.settimeout(1)
                client.connect(str(self.socket))
                client.sendall(f"AUTH {self.folder.record.valkey_password}\r\nPING\r\n".encode())
                answer = b""
                while answer.count(b"\r\n") < 2:
                    part = client.recv(256)
                    if not part:
                        return False
                    answer += part
        except OSError:
            return False
        return answer == b"+OK\r\n+PONG\r\n"

    def _before_start(self) -> None:
        self.socket.unlink(missing_ok=True)
        text = _SETTINGS.format(
            socket=_quoted(self.socket), home=_quoted(self.home), password=self.folder.record.valkey_password
        )
        write_private(self.home / "valkey.conf", text.encode(), self.folder.account)


def _quoted(path: os.PathLike[str]) -> str:
    return str(path).replace("\\", "\\\\").replace('"', '\\"')
