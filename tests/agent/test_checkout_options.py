"""Options of a checkout: history, tags, submodules, http, and the credentials that the server sends."""

from __future__ import annotations

import subprocess
from pathlib import Path
from typing import Any

import pytest
from tests.agent.fake_server import FakeServer, ReceivedBuild
from tests.agent.git_server import GitServer
from tests.agent.harness import StartAgent
from tests.agent.test_checkout import IDENTITY

SETUPTOOLS_SCM = """
import subprocess
describe = subprocess.check_output(["git", "describe", "--dirty", "--tags", "--long", "--match", "*[0-9]*"], text=True)
tag, distance, node = describe.strip().rsplit("-", 2)
print(tag.lstrip("v"), distance)
"""
"""Finds a version as setuptools-scm does."""


def _git(at: Path, *args: str) -> str:
    done = subprocess.run(["git", *IDENTITY, *args], cwd=at, check=True, capture_output=True, text=True)
    return done.stdout.strip()


def _make_repository(folder: Path, name: str, commits: int = 1) -> Path:
    """Return the path of a new bare repository, whose work tree is beside it."""
    work = folder / name
    _git(folder, "init", "--quiet", str(work))
    for number in range(commits):
        (work / "file").write_text(f"{name} {number}")
        _git(work, "add", ".")
        _git(work, "commit", "--quiet", "--message", f"commit {number}")
        if number == 0:
            _git(work, "tag", "v1.2")
    return _publish(folder, name)


def _publish(folder: Path, name: str) -> Path:
    bare = folder / "served" / f"{name}.git"
    bare.parent.mkdir(exist_ok=True)
    _git(folder, "clone", "--quiet", "--bare", str(folder / name), str(bare))
    return bare


def _add_submodule(folder: Path, name: str, urls: dict[str, str], commits: dict[str, Path]) -> None:
    """Commit submodules at these URLs, each at the newest commit of a repository."""
    work = folder / name
    for path, url in urls.items():
        _git(work, "config", "--file", ".gitmodules", f"submodule.{path}.path", path)
        _git(work, "config", "--file", ".gitmodules", f"submodule.{path}.url", url)
        commit = _git(commits[path], "rev-parse", "HEAD")
        _git(work, "update-index", "--add", "--cacheinfo", f"160000,{commit},{path}")
    _git(work, "add", ".gitmodules")
    _git(work, "commit", "--quiet", "--message", "submodules")


def _run(server: FakeServer, command: str, repository: object, **other: Any) -> ReceivedBuild:
    build = server.queue(command, repository=str(repository), branch="main", **other)
    server.wait_finished(build)
    return build


def _verdict(build: ReceivedBuild) -> dict[str, Any]:
    assert build.finished is not None
    return build.finished


def _options(depth: int = 1, tags: bool = False, submodules: bool = False) -> dict[str, Any]:
    return {"depth": depth, "tags": tags, "submodules": submodules}


def test_history_and_tags(server: FakeServer, start: StartAgent, folder: Path) -> None:
    repository = _make_repository(folder, "app", commits=3)
    start("--allow-local-repositories")
    show = "git rev-list --count HEAD; git tag"
    file = f"file://{repository}"

    assert _run(server, show, file).printed == ["1"]
    assert _run(server, show, file, checkout=_options(depth=2)).printed == ["2"]
    assert _run(server, show, file, checkout=_options(tags=True)).printed[0] == "1"
    whole = _run(server, show, file, checkout=_options(depth=0, tags=True))
    assert whole.printed == ["3", "v1.2"]
    assert any(line.endswith("(whole history, tags)") for line in whole.lines)


def test_a_version_is_found_as_setuptools_scm_does(server: FakeServer, start: StartAgent, folder: Path) -> None:
    repository = _make_repository(folder, "app", commits=3)
    start("--allow-local-repositories")
    build = _run(server, f"python3 - <<'END'\n{SETUPTOOLS_SCM}END", repository, checkout=_options(0, tags=True))

    assert build.printed == ["1.2 2"], build.lines


def test_submodules_and_credentials(server: FakeServer, start: StartAgent, folder: Path) -> None:
    """The repository's own host gets the credentials, and another one does not, nor does anything of the build."""
    repositories = {name: _make_repository(folder, name) for name in ("inner", "near", "app", "far")}
    served = folder / "served"
    with GitServer(served, password="tok/en+1 2").running() as near_host, GitServer(served).running() as other:
        _add_submodule(folder, "near", {"inner": "../inner.git"}, repositories)
        _git(folder / "near", "push", "--quiet", str(repositories["near"]), "HEAD:main")
        urls = {"libs/near": "./../near.git", "far": f"{other.url}/far.git"}
        _add_submodule(folder, "app", urls, {"libs/near": repositories["near"], "far": repositories["far"]})
        _git(folder / "app", "push", "--quiet", str(repositories["app"]), "HEAD:main")
        start("--allow-http-repositories")
        build = _run(
            server,
            "cat libs/near/file libs/near/inner/file far/file; echo; grep -r 'to[k]/en' . ../home; env",
            f"{near_host.url}/app.git",
            checkout=_options(submodules=True),
            repository_credentials={"username": "ci", "password": "tok/en+1 2"},
            setup=["git fetch origin && echo fetched || true"],
        )

        assert _verdict(build)["exit_code"] == 0, build.lines
        assert "near 0inner 0far 0" in build.printed
        assert near_host.credentials == {"", "ci:tok/en+1 2"}
        assert other.credentials == {""}
        assert "fetched" not in build.printed, "the build itself has no credentials"
        assert not any(text in line for line in build.printed for text in ("GIT_PASSWORD", "tok/en", "***"))


@pytest.mark.parametrize("url", ["{folder}/served/lib.git", "file://{folder}/served/lib.git", "ext::sh -c 'touch ~/x'"])
def test_submodules_are_not_local(server: FakeServer, start: StartAgent, folder: Path, url: str) -> None:
    repositories = {name: _make_repository(folder, name) for name in ("lib", "app")}
    _add_submodule(folder, "app", {"lib": url.format(folder=folder)}, repositories)
    _git(folder / "app", "push", "--quiet", str(repositories["app"]), "HEAD:main")
    start("--allow-local-repositories")
    build = _run(server, "echo never", repositories["app"], checkout=_options(submodules=True))

    assert _verdict(build)["reason"] == "checkout_failed"
    assert "never" not in build.printed


@pytest.mark.usefixtures("agent")
def test_http_needs_an_option_of_the_operator(server: FakeServer) -> None:
    build = _run(server, "echo never", "http://127.0.0.1:1/x.git")

    assert _verdict(build)["reason"] == "checkout_failed"
    assert "--allow-http-repositories" in _verdict(build)["detail"]


def test_wrong_credentials_are_not_shown(server: FakeServer, start: StartAgent, folder: Path) -> None:
    _make_repository(folder, "app")
    start("--allow-http-repositories")
    with GitServer(folder / "served", password="right").running() as host:
        credentials = {"username": "ci", "password": "wrong-token"}
        build = _run(server, "echo never", f"{host.url}/app.git", repository_credentials=credentials)

    assert _verdict(build)["reason"] == "checkout_failed"
    assert "wrong-token" not in "".join([*build.lines, _verdict(build)["detail"]])
