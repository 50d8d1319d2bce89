"""The logs of containers, read by a process of their own."""

import json
from pathlib import Path

import pytest

from integrations.container_ports import DockerUnavailable
from integrations.docker import logs
from integrations.docker.hosts import DockerSetup
from integrations.docker.logs import DockerLogs
from tests.support.docker_engine import fake_engine

pytestmark = pytest.mark.anyio


async def test_each_line_is_a_text_of_ascii_characters(tmp_path: Path) -> None:
    texts = ["Registered as da-1.", 'a "quoted" line', "größe \u2028 \x85", "x" * 100_000]
    with fake_engine(tmp_path, texts) as url:
        setup = DockerSetup({"here": url}, "installation", "http://127.0.0.1")
        async with DockerLogs(setup).read("here", "da-1", 200) as batches:
            lines = [line async for batch in batches for line in batch]
    assert b"".join(lines).isascii()
    shown = [json.loads(line) for line in lines]
    assert shown[:3] == [f"[10:00:05] {text}" for text in texts[:3]]
    assert [max(map(len, shown[3:])) <= 65_536, len(shown)] == [True, 5], "a long line is divided"


async def test_a_process_reads_so_many_logs_at_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(logs, "MAX_READERS", 1)
    with fake_engine(tmp_path, ["one"]) as url:
        readers = DockerLogs(DockerSetup({"here": url}, "installation", "http://127.0.0.1"))
        async with readers.read("here", "da-1", 1, follow=True) as batches:
            assert await anext(batches) == [b'"[10:00:05] one"']
            with pytest.raises(DockerUnavailable, match="try again later"):
                async with readers.read("here", "da-1", 1):
                    pass
