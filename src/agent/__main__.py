"""Entry point of `python -m agent`, of the folder run as a script, and of the zipapp."""

from __future__ import annotations

import os
import sys

if not __package__:
    # Run as a folder: make the package importable, and keep its modules from hiding others of the same name.
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def main(argv: list[str]) -> int:
    # The argument that starts a supervisor process must keep this name: if a newer zipapp replaces the zipapp of a
    # running agent, this agent passes the argument to the newer zipapp.
    if argv[:1] == ["slot"]:
        from agent.process.supervisor import serve

        return serve(isolated=argv[1:] == ["isolated"])
    from agent.cli import run

    return run(argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
