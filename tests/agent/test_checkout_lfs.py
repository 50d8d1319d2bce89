"""git-lfs on the machine of an agent: which server it asks during a checkout."""

from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.agent.git_server import GitServer
from tests.agent.test_checkout_options import _add_submodule, _git, _make_repository

from agent.build.checkout import Checkout, FetchOptions
from agent.context import AllowedRepositories

GIT_LFS = """#!/bin/sh
cat > /dev/null
{ git config --get lfs.url || git config --file .lfsconfig --get lfs.url; } | tr -d '\\n'
"""
"""Writes the address that it would ask into the file, and finds it as git-lfs does: `.lfsconfig` comes last."""
INSTALLED = """
[filter "lfs"]
    smudge = git-lfs smudge -- %f
    required = true
"""
"""As `git lfs install --system` writes it, but with one process for each file."""


@pytest.fixture
def env(folder: Path) -> dict[str, str]:
    """The environment of git on a machine with a git-lfs that shows whom it would ask."""
    (folder / "bin").mkdir()
    (folder / "bin" / "git-lfs").write_text(GIT_LFS)
    (folder / "bin" / "git-lfs").chmod(0o755)
    (folder / "gitconfig").write_text(INSTALLED)
    path = f"{folder / 'bin'}:{os.environ['PATH']}"
    return {"PATH": path, "HOME": str(folder / "home"), "GIT_CONFIG_SYSTEM": str(folder / "gitconfig")}


def _add_lfs_file(folder: Path, name: str, lfs_url: str) -> None:
    """Commit a file that git-lfs is to fetch, and an `.lfsconfig` that names a server for it."""
    work = folder / name
    (work / ".gitattributes").write_text("*.bin filter=lfs\n")
    (work / ".lfsconfig").write_text(f"[lfs]\n\turl = {lfs_url}\n")
    (work / "a.bin").write_text("pointer")
    _git(work, "add", ".")
    _git(work, "commit", "--quiet", "--message", "file of git-lfs")
    _git(work, "push", "--quiet", str(folder / "served" / f"{name}.git"), "HEAD:main")


def _check_out(url: str, env: dict[str, str], workspace: Path, *, submodules: bool = False) -> None:
    workspace.mkdir()

    def run_git(argv: Sequence[str], env: dict[str, str], _: bool) -> tuple[int, list[str]]:
        done = subprocess.run(argv, cwd=workspace, env=env, stdout=-1, stderr=subprocess.STDOUT, text=True, check=False)
        return done.returncode, done.stdout.splitlines()

    allowed = AllowedRepositories(local=False, http=True)
    credentials = {"username": "ci", "password": "token"}
    options = FetchOptions(submodules=submodules)
    Checkout(run_git, env, lambda _: None, allowed, options, credentials).run(url, "main", None)


@pytest.mark.parametrize("suffix", [".git", ".git/", ""])
def test_a_commit_names_no_server_of_git_lfs(folder: Path, env: dict[str, str], suffix: str) -> None:
    """Not even one on the same host, which would get the credentials of the repository."""
    _make_repository(folder, "app")
    with GitServer(folder / "served", password="token").running() as host:
        _add_lfs_file(folder, "app", f"{host.url}/stranger.git/info/lfs")
        (folder / "served" / "app").symlink_to(folder / "served" / "app.git")

        _check_out(f"{host.url}/app{suffix}", env, folder / "workspace")

        assert (folder / "workspace" / "a.bin").read_text() == f"{host.url}/app.git/info/lfs"


def test_git_lfs_does_not_run_for_submodules(folder: Path, env: dict[str, str]) -> None:
    repositories = {name: _make_repository(folder, name) for name in ("lib", "app")}
    with GitServer(folder / "served", password="token").running() as host:
        _add_lfs_file(folder, "lib", f"{host.url}/stranger.git/info/lfs")
        _add_submodule(folder, "app", {"lib": "../lib.git"}, {"lib": folder / "lib"})
        _git(folder / "app", "push", "--quiet", str(repositories["app"]), "HEAD:main")

        _check_out(f"{host.url}/app.git", env, folder / "workspace", submodules=True)

        assert (folder / "workspace" / "lib" / "a.bin").read_text() == "pointer"
