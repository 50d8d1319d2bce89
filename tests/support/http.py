"""HTTP client of the tests, with typed answers. Shows the request if the status is not the expected one, or if the
answer does not conform to the server's description.
"""

import time
from datetime import timedelta
from http.client import HTTPException, HTTPResponse, IncompleteRead
from typing import Any
from urllib.parse import urljoin

import requests
from requests.utils import get_encoding_from_headers

from tests.support.connections import Connections
from tests.support.description import check_answer

TIMEOUT_S = 30
PLAIN = (str, bytes, dict, list, tuple, type(None))
"""Types of bodies that are no streams."""


class Answer(requests.Response):
    """A response whose status and fields a test asserts in one step."""

    @classmethod
    def of(
        cls, request: requests.PreparedRequest, response: HTTPResponse, content: bytes, elapsed: timedelta
    ) -> "Answer":
        answer = cls()
        answer.request, answer.url, answer.elapsed = request, str(request.url), elapsed
        answer.status_code, answer.reason = response.status, response.reason
        for name, value in response.getheaders():
            answer.headers[name] = f"{answer.headers[name]}, {value}" if name in answer.headers else value
        answer.encoding = get_encoding_from_headers(answer.headers)
        answer._content, answer._content_consumed = content, True  # type: ignore[attr-defined]
        return answer

    def then(self, status: int, **fields: Any) -> Any:
        """Asserts the status, and that the JSON object has these fields. Returns the body; None if the body is
        empty.
        """
        request = f"{self.request.method} {self.request.path_url}"
        assert self.status_code == status, f"{request}: {self.status_code} {self.text}"
        if not self.content:
            assert not fields, f"{request}: no body"
            return None
        body = self.json()
        assert not fields or {name: body.get(name) for name in fields} == fields, body
        return body


class Client(requests.Session):
    """A `requests` session that knows the address of the server. It sends its token once it is signed in."""

    max_repeats = 5
    """Number of times that a request is sent again while the read models are behind, as they may be on a busy
    machine.
    """

    def __init__(self, url: str, email: str = "", password: str = "") -> None:
        super().__init__()
        self.url = url
        # Otherwise each request looks for proxies and .netrc files, which takes a tenth of the time of a small request.
        self.trust_env = False
        self._connections = Connections(url)
        if email:
            body = {"username": email, "password": password}
            self.authorize(self.when("POST", "/authenticate", json=body).then(200)["token"])

    def close(self) -> None:
        super().close()
        self._connections.close()

    @property
    def token(self) -> str:
        """The bearer token that the session sends."""
        return str(self.headers["Authorization"]).removeprefix("Bearer ")

    def authorize(self, token: str) -> "Client":
        """Sends this token with every request from now on."""
        self.headers["Authorization"] = f"Bearer {token}"
        return self

    def request(self, method: str | bytes, url: str | bytes, *args: object, **kwargs: object) -> Answer:
        assert not args
        kwargs.setdefault("timeout", TIMEOUT_S)
        repeats = 0
        while True:
            answer = self._send(str(method), urljoin(self.url, str(url)), **kwargs)
            check_answer(answer)
            is_behind = answer.status_code == 503 and b"the read models are behind" in answer.content
            if not is_behind or repeats == self.max_repeats:
                return answer
            repeats += 1
            time.sleep(float(answer.headers["Retry-After"]))  # as the answer asks the client to

    def _send(self, method: str, url: str, **kwargs: Any) -> Answer:
        """Sends a request as `requests` does. Takes half of its time, and follows no redirects, unless the body or the
        answer is a stream.
        """
        is_streamed = kwargs.get("stream") or not isinstance(kwargs.get("data"), PLAIN)
        if is_streamed or not url.startswith(f"{self.url}/"):
            answer = Answer()
            answer.__dict__.update(super().request(method, url, **kwargs).__dict__)
            return answer
        timeout_s, headers = kwargs.pop("timeout"), dict(self.headers) | (kwargs.pop("headers", None) or {})
        sent = _prepare(method, url, headers, **kwargs)
        began = time.monotonic()
        try:
            found = self._connections.exchange(method, sent.path_url, sent.body, sent.headers, timeout_s)
        except TimeoutError as error:
            raise requests.ReadTimeout(error, request=sent) from error
        except IncompleteRead as error:
            raise requests.exceptions.ChunkedEncodingError(error, request=sent) from error
        except (OSError, HTTPException) as error:
            raise requests.ConnectionError(error, request=sent) from error
        return Answer.of(sent, *found, timedelta(seconds=time.monotonic() - began))

    def get(self, url: str | bytes, **kwargs: Any) -> Answer:
        return self.request("GET", url, **kwargs)

    def post(self, url: str | bytes, data: Any = None, json: Any = None, **kwargs: Any) -> Answer:
        return self.request("POST", url, data=data, json=json, **kwargs)

    def put(self, url: str | bytes, data: Any = None, **kwargs: Any) -> Answer:
        return self.request("PUT", url, data=data, **kwargs)

    def delete(self, url: str | bytes, **kwargs: Any) -> Answer:
        return self.request("DELETE", url, **kwargs)

    def when(self, method: str, path: str, **kwargs: Any) -> Answer:
        """Sends a request to a path below `/api/v3`."""
        return self.request(method, f"/api/v3{path}", **kwargs)

    def fetch(self, path: str, **params: Any) -> Any:
        """Returns the JSON of a GET, which must succeed."""
        return self.when("GET", path, params=params).then(200)

    def create(self, path: str, **fields: Any) -> dict[str, Any]:
        """Sends a POST of these fields. Returns the JSON of the item that it has created."""
        created: dict[str, Any] = self.when("POST", path, json=fields).then(201)
        return created


def _prepare(
    method: str,
    url: str,
    headers: dict[str, Any],
    *,
    params: Any = None,
    data: Any = None,
    json: Any = None,
    files: Any = None,
    stream: bool = False,
    allow_redirects: bool = False,
) -> requests.PreparedRequest:
    sent = requests.PreparedRequest()
    sent.prepare_method(method)
    sent.prepare_url(url, params)
    sent.prepare_headers({name: value for name, value in headers.items() if value is not None})
    sent.prepare_body(data, files, json)
    return sent
