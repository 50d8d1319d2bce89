"""Writes checkpoints of the audit log to a folder outside the database. People who can change the database should have
no access to this folder.
"""

import os
from pathlib import Path


class CheckpointFolder:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def __str__(self) -> str:
        return str(self._folder)

    def newest(self) -> str | None:
        """Returns the signed text of the largest checkpoint in the folder; None if the folder has no checkpoint.
        Blocks; raises OSError.
        """
        name = max((path.name for path in self._folder.glob("checkpoint-*.txt")), default=None)
        return None if name is None else (self._folder / name).read_text(encoding="utf-8", errors="replace")

    def publish(self, size: int, note: str) -> None:
        """Writes `note`, the signed text of a checkpoint, to `checkpoint-SIZE.txt`. The file appears only once it is
        complete. Blocks; raises OSError.
        """
        self._folder.mkdir(parents=True, exist_ok=True)
        unfinished = self._folder / f".checkpoint-{size:012}"
        unfinished.write_text(note, encoding="utf-8")
        os.replace(unfinished, self._folder / f"checkpoint-{size:012}.txt")
