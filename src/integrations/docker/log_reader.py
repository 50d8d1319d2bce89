"""Program that writes the log of a container to standard output, each line as a JSON text of ASCII characters.

`integrations.docker.logs` runs it as a process: so the processes of the API do not load the client library, and a
stream can be ended at any time.

The program reads a `LogRequest` from standard input. It ends with exit code 0 after the log. If the log cannot be read,
it writes a sentence to standard error, and ends with 1.
"""

import json
import os
import sys
from collections.abc import Iterable, Iterator

import msgspec

from integrations.container_ports import DockerFailure
from integrations.docker.client import connect, converted_errors
from integrations.docker.hosts import DockerSetup
from integrations.docker.labels import container_labels

MAX_LINE = 65_536
"""Largest number of bytes of a line. A longer line is divided."""
NICENESS = 10
"""Niceness of this process. It is raised so that a container that prints fast does not slow down the processes that
answer requests.
"""


class LogRequest(msgspec.Struct, frozen=True):
    setup: DockerSetup
    host: str
    agent_id: str
    tail: int
    """Number of lines at the end of the log with which the output begins."""
    follow: bool
    """Whether to go on with later lines as they come."""


def main() -> int:
    os.nice(NICENESS)
    request = msgspec.json.decode(sys.stdin.buffer.read(), type=LogRequest)
    try:
        client = connect(request.setup, request.host)
        with converted_errors(request.host):
            labels = container_labels(request.setup, request.agent_id)
            found = client.containers(all=True, filters={"label": labels})
            if not found:
                sys.stderr.write(f"Docker host {request.host} has no container of {request.agent_id}")
                return 1
            chunks = client.logs(found[0]["Id"], stream=True, timestamps=True, tail=request.tail, follow=request.follow)
            for line in divide_into_lines(chunks):
                sys.stdout.buffer.write(json.dumps(format_line(line)).encode() + b"\n")
                sys.stdout.buffer.flush()
    except DockerFailure as error:
        sys.stderr.write(str(error))
        return 1
    return 0


def divide_into_lines(chunks: Iterable[bytes]) -> Iterator[bytes]:
    """Yields the lines in the chunks of a log, without their line breaks."""
    rest = b""
    for chunk in chunks:
        *lines, rest = (rest + chunk).split(b"\n")
        for line in lines:
            yield line.removesuffix(b"\r")
        while len(rest) > MAX_LINE:
            yield rest[:MAX_LINE]
            rest = rest[MAX_LINE:]
    if rest:
        yield rest


def format_line(line: bytes) -> str:
    """Returns a line of the log for output, with its time of day in UTC: `[10:00:05] Registered`. `line` begins with
    date and time, as the Docker engine writes them: `2026-05-20T10:00:05.123Z Registered`.
    """
    at, _, text = line.decode(errors="replace").partition(" ")
    return f"[{at[11:19]}] {text}"


if __name__ == "__main__":
    sys.exit(main())
