"""The wheel in an empty environment outside of the checkout: `python -m bench.long.wheel`.

Builds the wheel from a copy of the sources, installs it with its extra `embedded` and the locked requirements, starts
`testhide up` of that environment and runs one build on the local agent. The exit code is 1 when anything differs.
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
    """Return the wheel, built from a copy, since setuptools reuses and leaves files beside the sources."""
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
    """Return the Python of a new environment that has the wheel and the locked versions of what it requires."""
    run(sys.executable, "-I", "-m", "venv", environment)
    python = environment / "bin" / "python"
    locks = [CHECKOUT / "requirements" / name for name in ("server.txt", "embedded.txt")]
    run(python, *RUN_PIP, "install", "--require-hashes", "--no-deps", "-r", locks[0], "-r", locks[1])
    run(python, *RUN_PIP, "install", "--no-deps", wheel)
    # With nothing to install it from, pip fails for a requirement that the locks lack or that is out of its bounds.
    run(python, *RUN_PIP, "install", "--no-index", f"{wheel}[embedded]")
    run(python, *RUN_PIP, "check")
    return python


def run_build(stack: Stack) -> str:
    """Run a build on the local agent. Returns its status."""
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
    with tempfile.TemporaryDirectory(prefix="testhide-wheel-") as name:
        folder = Path(name)
        folder.chmod(0o711)  # as root the embedded database runs as another user, who must get in
        os.chdir(folder)
        python = install(build_wheel(folder), folder / "environment")
        with running_stack(agent=True, python=python) as stack:
            health = stack.call("GET", "/api/v3/healthz")
            status = run_build(stack)
    print(f"version {health['version']}, build {health['build']}; a build on the local agent: {status}")
    if health["build"] != health["version"]:
        print("outside of a checkout the build is the version")
        return 1
    return 0 if status == "passed" else 1


if __name__ == "__main__":
    sys.exit(main())
