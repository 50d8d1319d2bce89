"""Checks of settings. Each raises Fault, so the operator sees a sentence that names the variable."""

import ipaddress
from collections.abc import Mapping
from typing import get_args
from urllib.parse import urlsplit

from domain.language_model import Provider
from integrations.docker.hosts import parse_hosts
from integrations.mail import must_be_sender, parse_smtp_url
from testhide.operator_errors import Fault

LOCAL_HOSTS = ("localhost", "127.0.0.1", "::1")
MAX_MODEL_NAME = 200
"""Largest number of characters of the name of a model."""


def variable(field: str) -> str:
    """Return the name of the environment variable of a setting."""
    return f"TESTHIDE_{field.upper()}"


def must_be_number(text: str, name: str, least: int, most: int) -> int:
    if text.isascii() and text.isdigit() and least <= int(text[:20]) <= most:
        return int(text)
    raise Fault(f"{name} must be a number from {least} to {most}, not {text!r}.", 2)


def split(text: str) -> list[str]:
    """Return the items of a list that is separated by commas."""
    return list(filter(None, map(str.strip, text.split(","))))


def must_be_networks(text: str, name: str) -> None:
    for item in split(text):
        try:
            ipaddress.ip_network(item)
        except ValueError as error:
            raise Fault(f"{name} must be networks like 10.1.0.0/16, separated by commas: {error}.", 2) from None


def must_be_origin(text: str, name: str) -> None:
    url = urlsplit(text)
    if url.scheme not in ("http", "https") or not url.netloc or text != f"{url.scheme}://{url.netloc}".lower():
        raise Fault(f"{name} must be origins like https://dash.example.com, separated by commas, not {text!r}.", 2)


def must_be_mail(found: Mapping[str, str]) -> None:
    if "mail_from" in found or "smtp_url" in found:
        for name, check in (("smtp_url", parse_smtp_url), ("mail_from", must_be_sender)):
            try:
                check(found.get(name, ""))
            except ValueError as error:
                # Without the value, which may hold a password.
                raise Fault(f"{variable(name)} {error}.", 2) from None


def must_be_docker_hosts(found: Mapping[str, str]) -> None:
    try:
        parse_hosts(found["docker_hosts"], found.get("docker_certificates", ""))
    except ValueError as error:
        raise Fault(f"{variable('docker_hosts')} {error}.", 2) from None


def must_be_language_model(found: Mapping[str, str]) -> None:
    provider, names = found.get("ai_provider", "builtin"), get_args(Provider)
    if provider not in names:
        raise Fault(f"{variable('ai_provider')} must be {' or '.join(names)}, not {provider!r}.", 2)
    if provider == "builtin":
        return
    if "ai_model" not in found:
        raise Fault(
            f"{variable('ai_model')} is not set: {variable('ai_provider')}={provider} needs the name of a model.", 2
        )
    for name in [found["ai_model"], *split(found.get("ai_models", ""))]:
        if not name.isprintable() or len(name) > MAX_MODEL_NAME or name != name.strip():
            raise Fault(f"{variable('ai_model')} and {variable('ai_models')} must be names of models, not {name!r}.", 2)
    if "ai_url" in found and not _is_api(found["ai_url"]):
        # Without the value, which may hold a password.
        raise Fault(
            f"{variable('ai_url')} must be a URL like https://llm.example.com/v1, without a user or a query.", 2
        )
    if "ai_key" not in found and "ai_url" not in found:
        raise Fault(f"{variable('ai_key')} is not set: the server of {variable('ai_url')} by default needs one.", 2)
    url = urlsplit(found.get("ai_url", ""))
    if "ai_key" in found and url.scheme == "http" and url.hostname not in LOCAL_HOSTS:
        raise Fault(f"{variable('ai_url')} must begin with https://, or the API key would be sent unencrypted.", 2)


def _is_api(text: str) -> bool:
    try:
        url = urlsplit(text)
        has_port = url.port is None or url.port > 0
    except ValueError:
        return False
    is_plain = not (url.query or url.fragment or "@" in url.netloc)
    return url.scheme in ("http", "https") and bool(url.hostname) and has_port and is_plain and text.isprintable()
