"""Record of a run of the fault suite: which rules were broken, and in which round."""

import shutil
import sys
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

from tests.faults.injector import Fault
from tests.faults.stack import Stack


@dataclass
class RunRecord:
    """Outcome of a run so far. It is written at the end of the run, or when the run is interrupted."""

    seed: int
    log_folder: Path
    """Folder to which the logs of all processes are copied after a round that broke a rule."""
    figures: Callable[[], dict[str, Any]] = dict
    """Function that returns the figures of the run so far."""
    rounds: int = 0
    broken: list[dict[str, Any]] = field(default_factory=list)
    begun_at: float = field(default_factory=time.monotonic)

    @property
    def seconds(self) -> float:
        return time.monotonic() - self.begun_at

    def add(self, stack: Stack, step: str, broken: list[str], faults: Sequence[Fault] = ()) -> None:
        """Prints the outcome of a step. If a rule was broken, records it and copies the logs."""
        parts = [step, ", ".join(map(str, faults)), "" if broken else "all rules hold"]
        print(": ".join(filter(None, parts)), file=sys.stderr, flush=True)
        if broken:
            print("\n".join(f"    BROKEN {rule}" for rule in broken), file=sys.stderr, flush=True)
            self.broken.append({"at": step, "faults": list(map(str, faults)), "broken": broken})
            shutil.copytree(stack.folder / "logs", self.log_folder / step.replace(" ", "-"), dirs_exist_ok=True)

    def as_json(self, *, ended_early: bool) -> dict[str, Any]:
        outcome = {
            "seed": self.seed,
            "rounds": self.rounds,
            "seconds": round(self.seconds, 1),
            "ended early": ended_early,
        }
        return outcome | self.figures() | {"broken": self.broken}
