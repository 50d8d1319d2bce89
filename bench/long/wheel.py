"""Runs the wheel in an empty environment outside the checkout: `./dev long wheel`.

Builds the wheel from a copy of the sources, installs it with its extra `embedded` and the locked requirements, starts
`testhide up` in that environment and runs one build on the local agent. Exits with 1 if the build does not pass.
"""

import argparse
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from bench.support.stack import Stack, running_stack

CHECKOUT = Path(__file__).parents[2]
SOURCES = ("pyproject.toml", "README.md", "LICENSE", "requirements", "src")
BUILD_TIMEOUT_S = 60
RUN_PIP = ("-I", "-m", "pip", "--disable-pip-version-check", "--no-input", "--quiet")


def build_wheel(folder: Path) -> Path:
    """Builds the wheel from a copy of the sources, since setuptools writes files into their folder. Returns the path of
    the wheel.
    """
    sources = folder / "sources"
    sources.mkdir()
    for name in SOURCES:
        source = CHECKOUT / name
        if source.is_dir():
            shutil.copytree(source, sources / name, ignore=shutil.ignore_patterns("__pycache__", "*.egg-info"))
        else:
            shutil.copy(source, sources)
    options = ("--no-deps", "--no-build-isolation", "--wheel-dir", folder)
    run(sys.executable, *RUN_PIP, "wheel", *options, sources)
    (wheel,) = folder.glob("*.whl")
    return wheel


def install(wheel: Path, environment: Path) -> Path:
    """Installs the wheel and its locked requirements into a new environment. Returns the path of the environment's
    Python.
    """
    run(sys.executable, "-I", "-m", "venv", environment)
    python = environment / "bin" / "python"
    locks = [CHECKOUT / "requirements" / name for name in ("server.txt", "embedded.txt")]
    run(python, *RUN_PIP, "install", "--require-hashes", "--no-deps", "-r", locks[0], "-r", locks[1])
    run(python, *RUN_PIP, "install", "--no-deps", wheel)
    # Without an index pip fails if a requirement is not in the lock files, or its locked version is out of bounds.
    run(python, *RUN_PIP, "install", "--no-index", f"{wheel}[embedded]")
    run(python, *RUN_PIP, "check")
    return python


def run_build(stack: Stack) -> str:
    """Runs a build on the local agent. Returns its status, or a sentence if it did not end in time."""
    job = stack.create_job("wheel", "echo from the wheel")
    build = stack.call("POST", "/api/v3/builds/start", {"job_id": job})["id"]
    deadline = time.monotonic() + BUILD_TIMEOUT_S
    while (status := stack.call("GET", f"/api/v3/builds/{build}")["status"]) in ("queued", "running"):
        if time.monotonic() > deadline:
            return f"still {status} after {BUILD_TIMEOUT_S} s"
        time.sleep(0.1)
    return str(status)


def run(*command: str | Path) -> None:
    subprocess.run(command, check=True)


def main() -> int:
    argparse.ArgumentParser(description="Install the wheel into an empty environment and run a build.").parse_args()
    with tempfile.TemporaryDirectory(prefix="testhide-wheel-") as temporary:
        folder = Path(temporary)
        folder.chmod(0o711)  # as root the engines run under another account, which must enter the folder
        os.chdir(folder)
        python = install(build_wheel(folder), folder / "environment")
        with running_stack(agent=True, python=python) as stack:
            health = stack.call("GET", "/api/v3/healthz")
            described = stack.call("GET", "/api/v3/openapi.json")
            status = run_build(stack)
    print(f"version {health['version']}, build {health['build']}; a build on the local agent: {status}")
    print(f"{len(described['paths'])} paths are described")
    if health["build"] != health["version"]:
        print("outside a checkout the build must be the version")
        return 1
    return 0 if status == "passed" else 1


if __name__ == "__main__":
    sys.exit(main())
