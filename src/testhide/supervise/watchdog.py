"""Ends all services when the supervisor is killed by SIGKILL.

A shell of some 200 kB that reads from a pipe whose other end only the owner holds: each line is the list of
what is running now, and the end of the pipe is the owner's end. The parent-death signal of Linux would do
the same for one child, but belongs to the thread that started it and is lost where accounts change.
"""

import subprocess
from collections.abc import Iterable

# A session's id is its leader's pid, and everything that we start leads a session.
_SCRIPT = """\
while read -r line; do list=$line; done
for item in $list; do kill -s "${item%%:*}" "${item#*:}" 2>/dev/null; done
tries=0
while [ $tries -lt 40 ]; do
    left=
    for item in $list; do kill -0 "${item#*:}" 2>/dev/null && left=$item; done
    [ -n "$left" ] || break
    sleep 0.1
    tries=$((tries + 1))
done
for item in $list; do kill -s KILL -- "-${item#*:}" 2>/dev/null; done
"""


class Watchdog:
    def __init__(self) -> None:
        self._process = subprocess.Popen(
            ["/bin/sh", "-c", _SCRIPT],
            stdin=subprocess.PIPE,
            stdout=subprocess.DEVNULL,
            stderr=subprocess.DEVNULL,
            start_new_session=True,
            cwd="/",
        )
        self.pid = self._process.pid

    def watch(self, running: Iterable[tuple[str, int]]) -> None:
        """Replace the list of what to end: name of the signal without SIG, pid of a session leader."""
        pipe = self._process.stdin
        assert pipe is not None
        try:
            pipe.write((" ".join(f"{name}:{pid}" for name, pid in running) + "\n").encode())
            pipe.flush()
        except BrokenPipeError:
            # The watchdog was killed. The next start still finds orphans by their record.
            return

    def close(self) -> None:
        self.watch([])
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait()
