"""docker-compose.yml and Dockerfile against the program: no Docker engine is needed to find a wrong word in them."""

import re
import shlex
import subprocess
import sys
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml

from testhide.cli.processes import PROCESSES
from testhide.settings import known_names

ROOT = Path(__file__).parents[2]
COMPOSE: dict[str, Any] = yaml.safe_load((ROOT / "docker-compose.yml").read_text())
SERVICES: dict[str, dict[str, Any]] = COMPOSE["services"]
OURS = sorted(name for name, service in SERVICES.items() if "build" in service)
# What the file itself asks the operator for, beside the program's own names.
OPERATOR = {"TESTHIDE_POSTGRES_PASSWORD", "TESTHIDE_REDIS_PASSWORD", "TESTHIDE_PUBLISH"}


def test_every_process_has_a_service() -> None:
    assert set(SERVICES) == {*("postgres", "valkey", "migrate", "api", "worker", "projector", "dispatcher", "agent")}
    assert SERVICES["postgres"]["image"] == "postgres:18"
    assert SERVICES["valkey"]["image"] == "valkey/valkey:9"


@pytest.mark.parametrize("name", OURS)
def test_command_is_a_verb(name: str) -> None:
    verb, *arguments = SERVICES[name]["command"]
    if verb == "agent":
        output = subprocess.run(
            [sys.executable, "-I", "-m", "agent", "--help"], capture_output=True, text=True, check=True
        ).stdout
        options = [argument for argument in arguments if argument.startswith("--")]
        assert options == [option for option in options if re.search(rf"{option}\b", output)]
    else:
        assert verb in PROCESSES
        assert not arguments


@pytest.mark.parametrize("name", OURS)
def test_environment_is_understood(name: str) -> None:
    assert set(SERVICES[name].get("environment", {})) <= known_names()


@pytest.mark.parametrize("name", OURS)
def test_build_and_user(name: str) -> None:
    assert (ROOT / SERVICES[name]["build"] / "Dockerfile").is_file()
    assert "no-new-privileges:true" in SERVICES[name]["security_opt"]


def test_what_is_referred_to_is_declared() -> None:
    for service in SERVICES.values():
        for volume in service.get("volumes", []):
            assert volume.split(":")[0] in COMPOSE["volumes"]
        for secret in service.get("secrets", []):
            assert secret in COMPOSE["secrets"]
        for other, how in service.get("depends_on", {}).items():
            if how["condition"] == "service_healthy":
                assert "healthcheck" in SERVICES[other]


def test_no_default_passwords() -> None:
    text = (ROOT / "docker-compose.yml").read_text()
    for name, rest in re.findall(r"\$\{(\w+)([^}]*)\}", text):
        assert name in known_names() | OPERATOR
        if re.search("PASSWORD|KEY", name):
            assert rest.startswith(":?"), f"{name} must be demanded, not defaulted"


def instructions() -> Iterator[tuple[str, list[str]]]:
    text = re.sub(r"\\\n", " ", (ROOT / "Dockerfile").read_text())
    for line in text.splitlines():
        if line and not line.startswith("#"):
            word, _, rest = line.partition(" ")
            yield word, shlex.split(rest)


def test_copied_files_exist_and_are_sent() -> None:
    allowed = [line[1:] for line in (ROOT / ".dockerignore").read_text().splitlines() if line.startswith("!")]
    for word, arguments in instructions():
        if word == "COPY" and not arguments[0].startswith("--from"):
            for source in arguments[:-1]:
                assert (ROOT / source).exists(), source
                assert source in allowed, f"{source} is kept out by .dockerignore"


def test_image_runs_as_nobody_special() -> None:
    words = list(instructions())
    users = [arguments[0] for word, arguments in words if word == "USER"]
    assert users
    assert users[-1] not in ("root", "0")
    environment = [argument.partition("=")[0] for word, arguments in words if word == "ENV" for argument in arguments]
    assert {name for name in environment if name.startswith("TESTHIDE_")} <= known_names()
    assert [arguments for word, arguments in words if word == "ENTRYPOINT"] == [["[testhide]"]]


def test_the_image_has_all_adapters() -> None:
    """What outside systems need is in the image; only the embedded engines are not, since others run beside it."""
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())
    extras = set(project["tool"]["setuptools"]["dynamic"]["optional-dependencies"])
    installs = " ".join(" ".join(arguments) for word, arguments in instructions() if word == "RUN")
    assert {name for name in extras if f"-r requirements/{name}.txt" not in installs} == {"embedded"}


def test_packages_come_by_hash() -> None:
    installs = [
        " ".join(arguments) for word, arguments in instructions() if word == "RUN" and "pip" in " ".join(arguments)
    ]
    assert all("--require-hashes" in line or "--no-deps" in line for line in installs if "pip install" in line)
