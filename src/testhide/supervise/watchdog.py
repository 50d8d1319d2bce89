"""Ends all services if SIGKILL ends their owner, the process that started them.

The watchdog is a shell (some 200 kB of memory) that reads a pipe from the owner. Each line lists the processes that run
now. The pipe ends with the owner; the shell then ends the processes of the last line.

Linux could do this with the parent-death signal. But that signal comes when the thread that started a child ends, and
it is lost when the child changes its user.
"""

import subprocess
from collections.abc import Iterable

# The id of a process group is the pid of its leader, and every process that the owner starts leads a session and group.
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
        """Replace the list of processes to end. `running` lists them as pairs: the signal that ends the process
        (`TERM`), and its pid.
        """
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
