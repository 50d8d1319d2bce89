"""Writes checkpoints of the audit log to a folder, out of reach of those who can change the database."""

import os
from pathlib import Path


class CheckpointFolder:
    def __init__(self, folder: Path) -> None:
        self._folder = folder

    def publish(self, size: int, note: str) -> None:
        """Writes `checkpoint-SIZE.txt`, whole or not at all. Blocks; raises OSError."""
        self._folder.mkdir(parents=True, exist_ok=True)
        unfinished = self._folder / f".checkpoint-{size:012}"
        unfinished.write_text(note, encoding="utf-8")
        os.replace(unfinished, self._folder / f"checkpoint-{size:012}.txt")
