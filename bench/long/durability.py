"""PostgreSQL killed in mid-write: `python -m bench.long.durability --rounds 100 --seed 1`.

Sixteen writers append without a pause while every process of the database is killed with SIGKILL and started again.
Afterwards everything that was acknowledged must be in the log, and nothing else. Writes results/durability.json and
exits with 1 if anything was lost. That a kill loses nothing says little about a loss of power: whether the log is
flushed before an answer is what tests/real/durability traces.
"""

import argparse
import json
import shutil
import sys
import tempfile
from pathlib import Path

from tests.real.durability.crashes import crash


def main() -> int:
    parser = argparse.ArgumentParser(description="Kill a database in mid-write, again and again.")
    parser.add_argument("--rounds", type=int, default=100)
    parser.add_argument("--seed", type=int, default=1)
    parser.add_argument("--results", type=Path, default=Path("results"))
    options = parser.parse_args()
    folder = Path(tempfile.mkdtemp(prefix="testhide-crashes-"))
    folder.chmod(0o711)  # the engines' account has to get through
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
    options.results.mkdir(parents=True, exist_ok=True)
    (options.results / "durability.json").write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")
    print(json.dumps(result))
    return 1 if written.lost or written.unasked or not written.acknowledged else 0


if __name__ == "__main__":
    sys.exit(main())
