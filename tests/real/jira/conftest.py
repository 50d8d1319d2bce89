"""Runs jira820, a fake of Jira Data Center 8.20 that others wrote (PyPI)."""

import os
import subprocess
import time
from collections.abc import Iterator

import pytest
import requests

from tests.support.server import free_port


@pytest.fixture(name="url", scope="module")
def _url() -> Iterator[str]:
    port = free_port()
    environ = {**os.environ, "JIRA820_PORT": str(port), "JIRA820_PROJECT_KEY": "BACK"}
    process = subprocess.Popen(["jira820"], env=environ, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    url = f"http://127.0.0.1:{port}"
    deadline = time.monotonic() + 30
    try:
        while not _answers(url):
            assert time.monotonic() < deadline, "jira820 does not start"
        yield url
    finally:
        process.terminate()
        process.wait(10)


def _answers(url: str) -> bool:
    try:
        return requests.get(f"{url}/rest/api/2/serverInfo", timeout=5).status_code == 200
    except requests.ConnectionError:
        time.sleep(0.05)  # between two looks; the deadline is the caller's
        return False
