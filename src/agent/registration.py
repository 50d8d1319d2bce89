"""Registers the machine as a node: exchanges a registration token, which works once, for a token of the node."""

from __future__ import annotations

import os
import secrets

from agent import credentials
from agent.console import print_line
from agent.server_client import ServerClient, pause_forever

_TOKEN_PREFIX = "agt_"  # noqa: S105 (the public prefix of a token)
_TOKEN_BYTES = 24


def register(url: str, file: str) -> str:
    """Register this machine as a node, and return the node's token. `file` contains the registration token. The file is
    deleted before builds can read it.

    This program makes the node's token, and the server stores a hash of it. So the request can be repeated if the
    answer is lost, and no answer contains a token.

    Raises `NoToken` if the file cannot be read or deleted, `RequestRefused` or `TokenRefused` if the server refuses the
    registration, and ValueError if `url` is no URL.
    """
    registration_token, _ = credentials.read_token(file)
    server = ServerClient(url, credentials.TokenHolder("", None))
    try:
        os.remove(file)
    except OSError as error:
        raise credentials.NoToken(f"the registration token must be deleted before builds run: {error}") from None
    token = _TOKEN_PREFIX + secrets.token_urlsafe(_TOKEN_BYTES)
    body = {"registration_token": registration_token, "agent_token": token}
    node = server.post("/api/v3/agent/register", body, pause=pause_forever)
    print_line(f"Registered as {node['name']}.")
    return token
