"""Entry for `python -m agent`, for the folder run as a script and for the zipapp."""

from __future__ import annotations

import os
import sys

if not __package__:
    # Run as a folder: make the package importable and keep its modules from shadowing others.
    sys.path[0] = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))


def main(argv: list[str]) -> int:
    if argv == ["slot"]:
        from agent.process.slot import serve

        return serve()
    from agent.cli import run

    return run(argv)


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
