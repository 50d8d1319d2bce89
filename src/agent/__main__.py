"""Entry point of `python -m agent`, of the folder run as a script, and of the zipapp."""

from __future__ import annotations

import os
import sys

if not __package__:
    # Run as a folder: make the package importable, and keep its modules from hiding others of the same name.
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def main(argv: list[str]) -> int:
    # The word for a supervisor process stays: where the zipapp is replaced by a newer one, an older agent still runs.
    if argv == ["slot"]:
        from agent.process.supervisor import serve

        return serve()
    from agent.cli import run

    return run(argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
