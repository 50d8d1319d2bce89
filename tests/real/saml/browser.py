"""Chromium without a window, driven by the WebDriver protocol. It reaches nothing but this machine."""

import re
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import requests

TIMEOUT_S = 30
ARGUMENTS = (
    "--headless=new",
    "--no-sandbox",  # root has none, as in a container
    "--disable-dev-shm-usage",
    "--disable-background-networking",
    "--host-resolver-rules=MAP * ~NOTFOUND, EXCLUDE localhost, EXCLUDE 127.0.0.1",
)


@dataclass(frozen=True)
class Browser:
    session: str
    """URL of the WebDriver session."""

    def _send(self, method: str, path: str, body: Any = None) -> Any:
        answer = requests.request(method, f"{self.session}{path}", json=body, timeout=TIMEOUT_S)
        assert answer.ok, answer.text
        return answer.json()["value"]

    def open(self, url: str) -> None:
        self._send("POST", "/url", {"url": url})

    @property
    def url(self) -> str:
        return str(self._send("GET", "/url"))

    def run(self, script: str, *arguments: Any) -> Any:
        """Returns what the script in the page calls its last argument with."""
        return self._send("POST", "/execute/async", {"script": script, "args": arguments})

    def read_until(self, url: str) -> str:
        """Returns the text of the page that the browser goes to by itself, whose address begins with `url`."""
        deadline = time.monotonic() + TIMEOUT_S
        while not self.url.startswith(url):
            assert time.monotonic() < deadline, self.url
        return str(self.run("arguments[0](document.documentElement.textContent)"))

    def post(self, url: str, body: Any) -> tuple[int, Any]:
        """Returns status and body of a request that a script of the page sends."""
        status, answer = self.run(
            """
            const [url, body, done] = arguments;
            fetch(url, {method: "POST", headers: {"Content-Type": "application/json"}, body: JSON.stringify(body)})
              .then(async answer => done([answer.status, await answer.json()]), error => done([0, String(error)]));
            """,
            url,
            body,
        )
        return status, answer

    def submit(self, action: str, fields: dict[str, str]) -> None:
        """Submits a form of the page."""
        self.run(
            """
            const [action, fields, done] = arguments, form = document.createElement("form");
            Object.assign(form, {method: "post", action});
            for (const [name, value] of Object.entries(fields))
              form.append(Object.assign(document.createElement("input"), {name, value}));
            document.documentElement.append(form);
            done();
            form.submit();
            """,
            action,
            fields,
        )

    def forget_cookies(self, url: str) -> None:
        """Forgets the cookies that are sent to the URL."""
        self.open(url)
        self._send("DELETE", "/cookie")


@contextmanager
def open_browser(profile: Path) -> Iterator[Browser]:
    with subprocess.Popen(["chromedriver", "--port=0"], stdout=subprocess.PIPE, text=True) as driver:
        assert driver.stdout is not None
        try:
            ready = (re.search(r"successfully on port (\d+)", line) for line in driver.stdout)
            driver_url = f"http://127.0.0.1:{next(found[1] for found in ready if found)}"
            chrome = {"binary": "/usr/bin/chromium", "args": [*ARGUMENTS, f"--user-data-dir={profile}"]}
            wanted = {"capabilities": {"alwaysMatch": {"goog:chromeOptions": chrome}}}
            answer = requests.post(f"{driver_url}/session", json=wanted, timeout=TIMEOUT_S)
            assert answer.ok, answer.text
            browser = Browser(f"{driver_url}/session/{answer.json()['value']['sessionId']}")
            yield browser
            requests.delete(browser.session, timeout=TIMEOUT_S)
        finally:
            driver.terminate()
