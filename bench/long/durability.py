"""Kills PostgreSQL while it writes: `./dev long durability --rounds 100 --seed 1`.

Sixteen writers append without a pause while all processes of the database are killed with SIGKILL and started again.
Afterwards the log must contain exactly the acknowledged events. If it does not, exits with 1. Writes
results/durability.json.

A kill does not test a loss of power. tests/real/durability does: it traces that the log is flushed to disk before an
answer.
"""

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path

from tests.real.durability.crashes import crash

from bench.support.report import write_result


def main() -> int:
    parser = argparse.ArgumentParser(description="Kill a database while it writes, again and again.")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--results", type=Path, default=Path("results"))
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="testhide-crashes-"))
    folder.chmod(0o711)  # as root the engines run under another account, which must enter the folder
    try:
        written = crash(folder, options.rounds, options.seed)
    finally:
        shutil.rmtree(folder)
    result = {
        "seed": options.seed,
        "kills": written.kills,
        "acknowledged": len(written.acknowledged),
        "refused": len(written.refused),
        "lost": sorted(written.lost),
        "unasked": sorted(written.unasked),
    }
    write_result(options.results, "durability", result)
    print(json.dumps(result))
    return 1 if written.lost or written.unasked or not written.acknowledged else 0


if __name__ == "__main__":
    sys.exit(main())
