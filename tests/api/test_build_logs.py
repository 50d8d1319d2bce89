"""Logs of builds: the last lines, the whole as text, and those that pipelines elsewhere send."""

import json
from typing import Any

import pytest
import requests

from tests.support.builders import Shop
from tests.support.server import Server


@pytest.fixture(name="build")
def _build(shop: Shop) -> int:
    """An external build, whose job has a secret."""
    configuration = {"command": "x", "setup": [], "env": {}, "artifacts": [], "secrets": {"TOKEN": "hunter2-secret"}}
    shop.admin.put(f"/api/v3/jobs/{shop.job}/configuration", json=configuration).raise_for_status()
    return shop.start(external=True)


def _send(shop: Shop, build: int, offset: int, text: str) -> requests.Response:
    return shop.admin.post(f"/api/v3/builds/{build}/log", json={"offset": offset, "text": text})


def _texts(shop: Shop, build: int, **params: Any) -> list[str]:
    page = shop.admin.get(f"/api/v3/builds/{build}/pipeline_logs", params=params).json()
    return [line.partition("] ")[2] for line in page["lines"]]


def test_lines_of_a_pipeline_are_in_the_log_and_the_stream(shop: Shop, build: int) -> None:
    assert _send(shop, build, 0, "one\r\ntwo\n").json() == {"total_lines": 2}
    assert _send(shop, build, 0, "one\ntwo\n").json() == {"total_lines": 2}, "sent again"
    assert _send(shop, build, 1, "two\n\nits hunter2-secret\n").json() == {"total_lines": 4}
    lines = ["one", "two", "", "its ***"]
    assert _texts(shop, build) == lines

    shop.admin.post(f"/api/v3/builds/{build}/finish", json={"status": "passed"}).raise_for_status()

    assert _texts(shop, build) == lines
    assert shop.build(build)["log_lines"] == 4
    messages = shop.admin.get(f"/api/v3/builds/{build}/stream").text.split("\n\n")
    sent = [json.loads(message.removeprefix("data: ")) for message in messages if message]
    assert [message["data"].partition("] ")[2] for message in sent if message["type"] == "log"] == lines
    assert _send(shop, build, 4, "late\n").status_code == 409


def test_a_gap_is_refused(shop: Shop, build: int) -> None:
    answer = _send(shop, build, 2, "three\n")

    assert answer.status_code == 409
    assert "has 0 lines" in answer.json()["detail"]
    assert _texts(shop, build) == []


@pytest.mark.parametrize("text", ["", "half a line", "x" * 65_537 + "\n"])
def test_chunks_are_whole_lines(shop: Shop, build: int, text: str) -> None:
    assert _send(shop, build, 0, text).status_code == 422


def test_only_who_reports_sends_lines(server: Server, shop: Shop, build: int) -> None:
    path = f"/api/v3/builds/{build}/log"
    body = {"offset": 0, "text": "a\n"}
    assert server.make_user("developer", {shop.project: "read"}).post(path, json=body).status_code == 403
    assert server.make_user("developer", {}).post(path, json=body).status_code == 404
    queued = shop.start()
    assert _send(shop, queued, 0, "a\n").status_code == 409, "its agent sends its log"


def test_the_last_lines(shop: Shop, build: int) -> None:
    _send(shop, build, 0, "".join(f"{number}\n" for number in range(5))).raise_for_status()
    path = f"/api/v3/builds/{build}/pipeline_logs"

    assert _texts(shop, build, tail=2) == ["3", "4"]
    assert _texts(shop, build, tail=99) == ["0", "1", "2", "3", "4"]
    assert shop.admin.get(path, params={"tail": 2, "offset": 0}).status_code == 422
    assert shop.admin.get(path, params={"tail": 0}).status_code == 422
    raw = shop.admin.get(f"{path}/raw", params={"tail": 2})
    assert [line.partition("] ")[2] for line in raw.text.splitlines()] == ["3", "4"]


def test_the_whole_log_as_text(shop: Shop, build: int) -> None:
    lines = [f"ä {number}" for number in range(12_000)]
    _send(shop, build, 0, "".join(f"{line}\n" for line in lines)).raise_for_status()
    path = f"/api/v3/builds/{build}/pipeline_logs/raw"

    answer = shop.admin.get(path)

    assert answer.headers["Content-Type"] == "text/plain; charset=utf-8"
    assert answer.headers["Content-Disposition"] == f'attachment; filename="build-{build}.log"'
    found = answer.content.decode().split("\n")
    assert [line.partition("] ")[2] for line in found] == [*lines, ""]
    assert shop.admin.get(path, params={"attempt": 2}).status_code == 404
    assert shop.admin.get(f"/api/v3/builds/{shop.start()}/pipeline_logs/raw").text == ""
