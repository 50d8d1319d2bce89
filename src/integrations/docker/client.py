"""Connects to the Docker engine of a host, and turns the errors of the client library into DockerFailure.

Importing the library takes 0.15 s and some 20 MB, so only modules that are loaded at first use import this module.
"""

import contextlib
from collections.abc import Iterator
from typing import Any

from docker import APIClient
from docker.errors import APIError, DockerException, NotFound
from docker.tls import TLSConfig
from requests.exceptions import ConnectionError as NoConnection
from requests.exceptions import RequestException, Timeout

from integrations.container_ports import DockerRejected, DockerUnavailable
from integrations.docker.hosts import CERTIFICATES, DockerSetup

CALL_TIMEOUT_S = 10
"""Seconds that a host may take to answer a call. For a call that waits by design, such as stopping a container, its
waiting time is added.
"""
MAX_REASON = 500
"""Largest number of characters of a host's answer that an error repeats."""


class _Client(APIClient):
    def merge_environment_settings(self, url: Any, proxies: Any, stream: Any, verify: Any, cert: Any) -> Any:
        # Otherwise the variable REQUESTS_CA_BUNDLE would replace the authority that the operator has given.
        return super().merge_environment_settings(url, proxies, stream, verify or self.verify, cert)


def connect(setup: DockerSetup, name: str) -> APIClient:
    """Returns a client of a host. Blocks: it asks the host for its version. Raises DockerFailure."""
    url = setup.url_of(name)
    with converted_errors(name):
        tls = None
        if url.startswith("tcp://"):
            ca, certificate, key = (str(setup.certificates_of(name) / file) for file in CERTIFICATES)
            tls = TLSConfig(client_cert=(certificate, key), ca_cert=ca, verify=True)
        return _Client(url, version="auto", timeout=CALL_TIMEOUT_S, tls=tls or False, use_ssh_client=True)


@contextlib.contextmanager
def converted_errors(host: str) -> Iterator[None]:
    """Context manager that turns errors of the client library into DockerFailure."""
    try:
        yield
    except APIError as error:
        answer = (error.explanation or str(error))[:MAX_REASON].strip().rstrip(".")
        status = error.status_code or 500
        kind = DockerRejected if 400 <= status < 500 and status not in (408, 429) else DockerUnavailable
        raise kind(f"Docker host {host} answers {status}: {answer}") from None
    except Timeout:
        raise DockerUnavailable(f"Docker host {host} does not answer within {CALL_TIMEOUT_S} s") from None
    except (NoConnection, RequestException, DockerException, OSError) as error:
        raise DockerUnavailable(f"Docker host {host} cannot be reached: {_reason(error)}") from None


def _reason(error: BaseException) -> str:
    """Returns the reason of an error in a few words. If errors of the operating system caused it, returns the text of
    the innermost of them.
    """
    innermost, seen = error, 0
    found: BaseException = error
    while innermost is not None and seen < 20:
        if isinstance(innermost, OSError) and innermost.strerror:
            found = innermost
        following = innermost.__cause__ or innermost.__context__
        arguments = [one for one in innermost.args if isinstance(one, BaseException)]
        innermost, seen = (arguments[0] if arguments else following), seen + 1  # type: ignore[assignment]
    text = found.strerror if isinstance(found, OSError) and found.strerror else str(found)
    return (text or type(found).__name__)[:MAX_REASON]


__all__ = ["APIClient", "APIError", "NotFound", "connect", "converted_errors"]
