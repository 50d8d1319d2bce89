"""The settings of the server: read once at the start of a process and passed down.

`load_settings` reads the environment, or the file that TESTHIDE_SETTINGS names. `testhide up` writes such a file for
the processes of its stack: a build that runs as the same user could read secrets in their environment.
"""

import base64
import os
import secrets
import shlex
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any
from urllib.parse import unquote, urlsplit

import msgspec

from domain.language_model import DEFAULT_MONTHLY_TOKENS, DEFAULT_TIMEOUT_S, Provider
from integrations.docker.hosts import find_server_problem
from testhide.engines.folder import SECRET_KEY, default_data_folder, write_private
from testhide.operator_errors import Fault
from testhide.setting_checks import (
    must_be_docker_hosts,
    must_be_language_model,
    must_be_mail,
    must_be_networks,
    must_be_number,
    must_be_origin,
    split,
    variable,
)
from testhide.supervise.program import local_url

# Field of Settings -> what it means, as docs/settings.md has it. The variable is TESTHIDE_ and the field in capitals.
MEANINGS = {
    "database_url": "PostgreSQL 15 or newer, postgresql://…; unset: ./dev up starts its own",
    "redis_url": "Redis or Valkey, redis://…, rediss://… or unix://…; unset: ./dev up starts its own",
    "host": "address to listen on (127.0.0.1)",
    "port": "port to listen on (8000)",
    "data": "data folder: blobs, logs, embedded engines",
    "base_url": "what links begin with (http://HOST:PORT; in Teams cards: no link)",
    "secret_key": "32 bytes as base64 or hex: opens the keys that everything is sealed with",
    "old_secret_key": "the secret key before, until it is rotated (none)",
    "admin_email": "the first administrator",
    "admin_password": "the first administrator's password, 8 characters or more; unset: made up and printed once",
    "unsafe": "1: start also on a database with fsync or synchronous_commit off",
    "blobs_url": "where artifacts lie, the same for all machines, s3://BUCKET/PREFIX or file:///FOLDER (DATA/blobs)",
    "artifact_quota": "bytes of artifacts that one project may have (107374182400: 100 GiB)",
    "cache_quota": "bytes of caches kept for a project's builds of one trust; 0: none (10737418240: 10 GiB)",
    "cache_limit": "bytes that one cache which the server keeps may have (1073741824: 1 GiB)",
    "outgoing_allow": "networks webhooks may call, http too: 10.1.0.0/16,… (none; ./dev up: this machine for admins)",
    "local_repositories": "folders whose git repositories SCM endpoints of the type git may read: /srv/git,… (none)",
    "vcenter_ca": "file with certificates of CAs that vCenters may have besides those of the system (none)",
    "trusted_proxies": "networks of reverse proxies, whose X-Forwarded-For and -Proto count (127.0.0.0/8,::1/128)",
    "requests_per_token": "requests a minute with one token, and hooks of one project; 0: no limit (6000)",
    "requests_per_address": "requests a minute of one address without credentials; 0: no limit (600)",
    "streams_per_user": "streams that a user may have open at each process; 0: no limit (200)",
    "session_idle_minutes": "minutes without a request after which a session ends; 0: only after its 8 hours (0)",
    "connections_per_address": "connections that one address may have at once, without those of trusted proxies (1000)",
    "cors_origins": "origins whose pages may call the API from browsers, such as https://dash.example.com,… (none)",
    "smtp_url": "mail server, smtp://USER:PASSWORD@HOST:587 (STARTTLS) or smtps://… (none: links are in answers)",
    "mail_from": "sender of mails, an address with or without a name; needed with TESTHIDE_SMTP_URL",
    "license": "signed licence file (none: the community tier, with all features)",
    "license_key": "verifier key of who signs the licence file: NAME+ID+KEY",
    "checkpoints_to": "folder that every checkpoint of the audit log is also written to (none)",
    "docker_hosts": "Docker hosts of agents on demand: NAME=unix:///run/docker.sock,NAME=tcp://HOST:2376,… (none)",
    "docker_images": "images that Docker agents may have, as globs: testhide/agent:*,… (none)",
    "docker_certificates": "folder with a folder NAME for each tcp:// host: ca.pem, cert.pem and key.pem",
    "docker_network": "network of the containers, made if it is missing (testhide-agents)",
    "docker_server_url": "URL at which the containers reach this server (TESTHIDE_BASE_URL)",
    "semantic_search": "0: searches compare words only, also where wordllama and pgvector are installed (1)",
    "ai_provider": "what answers the assistant: builtin (rules and statistics), openai (a model) (builtin)",
    "ai_url": "server of the model, with the OpenAI API (https://api.openai.com/v1)",
    "ai_key": "API key of the model's server",
    "ai_model": "name of the model; needed with TESTHIDE_AI_PROVIDER=openai",
    "ai_models": "names of other models that may be asked for: gpt-4o-mini,… (none)",
    "ai_monthly_tokens": "tokens of prompts and answers in a calendar month (1000000)",
    "ai_timeout": "seconds that one answer of the model may take (60)",
    "build": "what /healthz shows as build (the commit of the checkout, or the version)",
}
# Field with a number -> the least value that it may have.
COUNTS = {
    "requests_per_token": 0,
    "requests_per_address": 0,
    "streams_per_user": 0,
    "session_idle_minutes": 0,
    "connections_per_address": 1,
    "ai_timeout": 1,
}
# Each may also be given as TESTHIDE_…_FILE: the name of a file that holds it.
SECRETS = ("database_url", "redis_url", "secret_key", "old_secret_key", "admin_password", "smtp_url", "ai_key")
# Each may also be given as TESTHIDE_…_COMMAND: a command whose output it is.
COMMANDS = ("secret_key", "old_secret_key")
COMMAND_TIMEOUT_S = 60.0
# Variables that the start of the stack reads by itself, with their meanings.
OTHER_NAMES = {
    "TESTHIDE_SETTINGS": "settings of a supervised process, written by the supervisor",
    "TESTHIDE_POSTGRES_BIN": "folder of the embedded PostgreSQL's programs",
    "TESTHIDE_VALKEY_SERVER": "program of the embedded Valkey",
}


def known_names() -> set[str]:
    """Return the names of all environment variables that this program reads."""
    return {name for field in MEANINGS for name in variables(field)} | set(OTHER_NAMES)


def variables(field: str) -> list[str]:
    """Return the names of the environment variables that can set a field, such as `TESTHIDE_REDIS_URL` and
    `TESTHIDE_REDIS_URL_FILE` for `redis_url`.
    """
    name = variable(field)
    return [name, *([f"{name}_FILE"] * (field in SECRETS)), *([f"{name}_COMMAND"] * (field in COMMANDS))]


class Settings(msgspec.Struct, frozen=True, kw_only=True):
    database_url: str
    secret_key: bytes
    data_dir: str
    redis_url: str = ""
    """URL of Redis or Valkey; empty in processes that do not use Redis."""
    old_secret_key: bytes = b""
    """Previous secret key; empty unless the secret key is being rotated."""
    host: str = "127.0.0.1"
    port: int = 8000
    base_url: str = ""
    admin_email: str = "admin@testhide.local"
    admin_password: str = ""
    blobs_url: str = ""
    artifact_quota: int = 100 * 1024**3
    cache_quota: int = 10 * 1024**3
    cache_limit: int = 1024**3
    outgoing_allow: str = ""
    opened_for_admins: str = ""
    """Networks that URLs of admins may lead to, in addition to those of `outgoing_allow`."""
    local_repositories: str = ""
    vcenter_ca: str = ""
    trusted_proxies: str = "127.0.0.0/8,::1/128"
    requests_per_token: int = 6_000
    requests_per_address: int = 600
    streams_per_user: int = 200
    session_idle_minutes: int = 0
    connections_per_address: int = 1_000
    cors_origins: str = ""
    smtp_url: str = ""
    mail_from: str = ""
    prints_links: bool = False
    """Whether a server without a mail server prints the links that its mails would contain."""
    license: str = ""
    license_key: str = ""
    checkpoints_to: str = ""
    docker_hosts: str = ""
    docker_images: str = ""
    docker_certificates: str = ""
    docker_network: str = ""
    docker_server_url: str = ""
    semantic_search: bool = True
    ai_provider: Provider = "builtin"
    ai_url: str = "https://api.openai.com/v1"
    ai_key: str = ""
    ai_model: str = ""
    ai_models: str = ""
    ai_monthly_tokens: int = DEFAULT_MONTHLY_TOKENS
    ai_timeout: int = DEFAULT_TIMEOUT_S
    build: str = ""
    unsafe: bool = False

    @property
    def secret_keys(self) -> list[bytes]:
        """The secret keys that may open the database. During a rotation, the first is the new one."""
        return [self.secret_key, *filter(None, [self.old_secret_key])]

    @property
    def blobs(self) -> str:
        """URL of the blob store."""
        return self.blobs_url or Path(self.data_dir, "blobs").as_uri()

    @property
    def blobs_folder(self) -> Path | None:
        """Folder of the artifacts; None if they are in an object store."""
        url = urlsplit(self.blobs)
        return Path(unquote(url.path)) if url.scheme == "file" else None

    @property
    def origins(self) -> list[str]:
        return split(self.cors_origins)

    @property
    def repository_folders(self) -> list[Path]:
        return list(map(Path, split(self.local_repositories)))

    @property
    def public_url(self) -> str:
        return self.base_url.rstrip("/") or local_url(self.host, self.port)

    @property
    def url_for_containers(self) -> str:
        """URL at which the containers of Docker agents reach the server."""
        return self.docker_server_url.rstrip("/") or self.public_url

    @property
    def docker_problem(self) -> str:
        """Why containers of Docker agents cannot reach the server; empty if they probably can, or if there are no
        Docker hosts.
        """
        return find_server_problem(self.url_for_containers, self.docker_network) if self.docker_hosts else ""

    def __repr__(self) -> str:
        # Secrets stay out of logs and traces, also inside of URLs.
        return f"Settings(host={self.host!r}, port={self.port}, data_dir={self.data_dir!r}, …)"


def load_settings(environ: Mapping[str, str] = os.environ) -> Settings:
    """Read the settings from the file that TESTHIDE_SETTINGS names or, without this variable, from the environment.
    Raises Fault if a setting is missing or wrong.
    """
    file = environ.get("TESTHIDE_SETTINGS")
    if file:
        try:
            return msgspec.json.decode(Path(file).read_bytes(), type=Settings)
        except (OSError, msgspec.MsgspecError) as error:
            raise Fault(f"TESTHIDE_SETTINGS={file} cannot be read: {error}") from None
    return from_environment(environ)


def save_settings(settings: Settings, path: Path) -> None:
    write_private(path, msgspec.json.encode(settings))


def from_environment(environ: Mapping[str, str], **given: Any) -> Settings:
    """Read the settings from the environment. Fields in `given` replace those of the environment. Raises Fault if a
    setting is missing or wrong.
    """
    found: dict[str, Any] = {}
    for name in MEANINGS:
        value = find_value(name, environ)
        if value:
            found[name] = value
    if "data" in found:
        found["data_dir"] = os.path.abspath(found.pop("data"))
    for name in ("license", "checkpoints_to", "docker_certificates", "vcenter_ca"):
        if name in found:
            found[name] = os.path.abspath(found[name])
    for name in ("outgoing_allow", "trusted_proxies"):
        if name in found:
            must_be_networks(found[name], variable(name))
    for folder in split(found.get("local_repositories", "")):
        if not os.path.isabs(folder):
            raise Fault(
                f"{variable('local_repositories')} must be absolute folders, separated by commas, not {folder!r}.", 2
            )
    must_be_mail(found)
    must_be_language_model(found)
    if "docker_hosts" in found:
        must_be_docker_hosts(found)
    for name in COMMANDS:
        if name in found:
            found[name] = parse_key(found[name], variable(name))
    if "port" in found:
        found["port"] = must_be_number(found["port"], variable("port"), 1, 65535)
    for name in COUNTS.keys() & found.keys():
        found[name] = must_be_number(found[name], variable(name), COUNTS[name], 10_000_000)
    for origin in split(found.get("cors_origins", "")):
        must_be_origin(origin, variable("cors_origins"))
    for name, least in (("artifact_quota", 0), ("cache_quota", 0), ("cache_limit", 0), ("ai_monthly_tokens", 1)):
        if name in found:
            found[name] = must_be_number(found[name], variable(name), least, 10**18)
    for name in ("unsafe", "semantic_search"):
        if name in found:
            found[name] = bool(must_be_number(found[name], variable(name), 0, 1))
    found |= given
    found.setdefault("data_dir", str(default_data_folder()))
    for name in ("database_url", "secret_key"):
        if name not in found:
            raise not_set(name)
    return Settings(**found)


def not_set(field: str) -> Fault:
    """Return the Fault for a setting that a process needs and that is missing."""
    return Fault(f"{variable(field)} is not set: it is needed outside of `./dev up`, which starts its own.", 2)


def find_value(field: str, environ: Mapping[str, str]) -> str:
    """Return the value that the environment gives for a field: the text of its variable, the contents of the file that
    its `_FILE` variable names, or the output of the command in its `_COMMAND` variable. Returns an empty text if none
    of these variables is set. Raises Fault if two are set, if the file cannot be read, or if the command fails.
    """
    given = [name for name in variables(field) if environ.get(name)]
    if not given:
        return ""
    if len(given) > 1:
        raise Fault(f"Both {given[0]} and {given[1]} are set: keep one.", 2)
    name, value = given[0], environ[given[0]]
    if name.endswith("_COMMAND"):
        return _run_key_command(value, name)
    if name == variable(field):
        return value
    try:
        return Path(value).read_text().strip()
    except (OSError, UnicodeDecodeError) as error:
        raise Fault(f"{name}={value} cannot be read: {error}", 2) from None


def key_from_environment(field: str, environ: Mapping[str, str]) -> bytes | None:
    """Return the key that the environment gives for a field of the settings; None if the environment has no value for
    this field. Raises Fault if the value is no key.
    """
    value = find_value(field, environ)
    return parse_key(value, variable(field)) if value else None


def _run_key_command(command: str, name: str) -> str:
    """Return the output of a command that prints a secret key. Raises Fault if the command fails. The message of the
    Fault does not contain the output.
    """
    try:
        done = subprocess.run(
            shlex.split(command), stdin=subprocess.DEVNULL, capture_output=True, timeout=COMMAND_TIMEOUT_S, check=False
        )
        if done.returncode == 0:
            return done.stdout.decode().strip()
        lines = done.stderr.decode(errors="replace").strip().splitlines()
        reason = f"it ended with {done.returncode}" + (f": {lines[-1]}" if lines else "")
    except subprocess.TimeoutExpired:
        reason = f"it did not end within {COMMAND_TIMEOUT_S:.0f} s"
    except UnicodeDecodeError:
        reason = "it prints no text"
    except (OSError, ValueError) as error:  # the latter for an open quotation mark
        reason = str(error)
    raise Fault(f"{name} gives no key: {reason}", 2)


def parse_key(text: str, where: str) -> bytes:
    text = text.strip()
    for decode in (bytes.fromhex, base64.b64decode, base64.urlsafe_b64decode):
        try:
            key = decode(text)
        except ValueError:
            continue
        if len(key) == 32:
            return key
    raise Fault(f"{where} must be 32 bytes as base64 or hex (make one: openssl rand -base64 32).", 2)


def own_secret_key(data: Path, *, is_new: bool) -> bytes:
    """Return the secret key in the data folder. Creates it if the folder `is_new`. Raises Fault if an older folder has
    lost its key.
    """
    path = data / SECRET_KEY
    if key := read_key(path):
        return key
    if not is_new:
        raise Fault(f"{path} is gone, but the database that it belongs to is there: put it back.")
    return make_key(path)


def read_key(path: Path) -> bytes | None:
    """Return the key in a file, or None if there is no such file. Raises Fault if the file contains no key."""
    try:
        return parse_key(path.read_text(), str(path))
    except FileNotFoundError:
        return None


def make_key(path: Path) -> bytes:
    key = secrets.token_bytes(32)
    write_key(path, key)
    return key


def write_key(path: Path, key: bytes) -> None:
    write_private(path, base64.b64encode(key) + b"\n")
