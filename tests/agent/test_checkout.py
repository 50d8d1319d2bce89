from __future__ import annotations

import os
import subprocess
from collections.abc import Sequence
from pathlib import Path

import pytest
from tests.agent.fake_server import FakeServer
from tests.agent.harness import StartAgent

from agent.build.checkout import Checkout, CheckoutFailed, FetchOptions
from agent.build.masking import hide_credentials
from agent.context import AllowedRepositories

NONE_ALLOWED = AllowedRepositories(local=False, http=False)
IDENTITY = ("-c", "user.name=Ada", "-c", "user.email=ada@example.org", "-c", "init.defaultBranch=main")


class Repository:
    """A bare repository with three commits on main and one on a branch."""

    def __init__(self, folder: Path) -> None:
        self.path = folder / "origin.git"
        work = folder / "origin"
        self._git("init", "--quiet", str(work), at=folder)
        self.commits = [self._commit(work, number) for number in range(3)]
        self._git("switch", "--quiet", "--create", "feature/ä", at=work)
        self.feature = self._commit(work, 3)
        self._git("clone", "--quiet", "--bare", str(work), str(self.path), at=folder)

    def _commit(self, work: Path, number: int) -> str:
        (work / "file").write_text(str(number))
        (work / "hook").write_text("")
        self._git("add", ".", at=work)
        self._git("commit", "--quiet", "--message", f"commit {number}", at=work)
        return self._git("rev-parse", "HEAD", at=work)

    def _git(self, *args: str, at: Path) -> str:
        done = subprocess.run(["git", *IDENTITY, *args], cwd=at, check=True, capture_output=True, text=True)
        return done.stdout.strip()


@pytest.fixture
def repository(folder: Path) -> Repository:
    return Repository(folder)


SHOW = 'cat file; echo; git rev-parse HEAD; echo "$TESTHIDE_COMMIT"'


def _check_out(
    server: FakeServer, start: StartAgent, repository: Repository, branch: str | None, commit: str | None
) -> tuple[str, str]:
    start("--allow-local-repositories")
    build = server.queue(SHOW, repository=str(repository.path), branch=branch, commit_sha=commit)
    assert server.wait_finished(build)["exit_code"] == 0, build.lines
    content, head, variable = build.printed[-3:]
    assert head == variable == build.commit
    return content, head


def test_the_tip_of_a_branch(server: FakeServer, start: StartAgent, repository: Repository) -> None:
    assert _check_out(server, start, repository, "main", None) == ("2", repository.commits[2])


def test_another_branch_at_an_abbreviated_commit(server: FakeServer, start: StartAgent, repository: Repository) -> None:
    assert _check_out(server, start, repository, "feature/ä", repository.feature[:9]) == (
        "3",
        repository.feature,
    )


def test_an_older_commit(server: FakeServer, start: StartAgent, repository: Repository) -> None:
    assert _check_out(server, start, repository, "main", repository.commits[0]) == (
        "0",
        repository.commits[0],
    )


def test_a_tag_does_not_replace_the_branch_of_its_name(
    server: FakeServer, start: StartAgent, repository: Repository
) -> None:
    subprocess.run(["git", "tag", "main", repository.commits[0]], cwd=repository.path, check=True)
    assert _check_out(server, start, repository, "main", None) == ("2", repository.commits[2])


def test_a_tag(server: FakeServer, start: StartAgent, repository: Repository) -> None:
    subprocess.run(["git", "tag", "v1", repository.commits[0]], cwd=repository.path, check=True)
    assert _check_out(server, start, repository, "v1", None) == ("0", repository.commits[0])


def test_a_commit_of_a_branch_that_is_gone(server: FakeServer, start: StartAgent, repository: Repository) -> None:
    assert _check_out(server, start, repository, "gone", repository.commits[1]) == (
        "1",
        repository.commits[1],
    )


def test_the_default_branch(server: FakeServer, start: StartAgent, repository: Repository) -> None:
    assert _check_out(server, start, repository, None, None) == ("3", repository.feature)


def test_the_detail_quotes_git_when_it_fails(server: FakeServer, start: StartAgent, repository: Repository) -> None:
    start("--allow-local-repositories")
    build = server.queue("echo never", repository=f"file://{repository.path}", branch="gone")
    verdict = server.wait_finished(build)

    assert (verdict["exit_code"], verdict["reason"]) == (None, "checkout_failed")
    assert "couldn't find remote ref refs/heads/gone" in verdict["detail"]
    assert "never" not in build.printed
    assert not build.started


def test_a_tag_called_like_a_short_commit_id_is_no_commit(
    server: FakeServer, start: StartAgent, repository: Repository
) -> None:
    subprocess.run(["git", "tag", "abcdef12", repository.commits[0]], cwd=repository.path, check=True)
    start("--allow-local-repositories")
    build = server.queue("", repository=str(repository.path), branch="main", commit_sha="abcdef12")

    assert server.wait_finished(build)["reason"] == "checkout_failed"


def test_an_unknown_commit_fails_the_checkout(server: FakeServer, start: StartAgent, repository: Repository) -> None:
    start("--allow-local-repositories")
    build = server.queue("", repository=str(repository.path), branch="main", commit_sha="0123456789")

    assert server.wait_finished(build)["reason"] == "checkout_failed"


@pytest.mark.usefixtures("agent")
def test_local_repositories_need_an_option_of_the_operator(server: FakeServer, repository: Repository) -> None:
    verdict = server.wait_finished(server.queue("", repository=str(repository.path)))

    assert verdict["reason"] == "checkout_failed"
    assert "--allow-local-repositories" in verdict["detail"]


@pytest.mark.usefixtures("agent")
def test_credentials_of_a_url_are_shown_nowhere(server: FakeServer) -> None:
    url = f"https://ada:pass-word@127.0.0.1:{server.url.rpartition(':')[2]}/x.git"
    build = server.queue("", repository=url, branch="main")
    verdict = server.wait_finished(build)

    assert verdict["reason"] == "checkout_failed"
    assert "pass-word" not in verdict["detail"] + "".join(build.lines)


@pytest.mark.parametrize(
    ("url", "branch", "commit"),
    [
        ("--upload-pack=touch x", None, None),
        ("ext::sh -c touch% x", None, None),
        ("ext::sh", None, None),
        ("http://example.org/x.git", None, None),
        ("git://example.org/x.git", None, None),
        ("file:///srv/x.git", None, None),
        ("/srv/x.git", None, None),
        ("srv/x:y.git", None, None),
        ("https://example.org/x.git", "--upload-pack=x", None),
        ("https://example.org/x.git", "a:refs/heads/b", None),
        ("https://example.org/x.git", "+main", None),
        ("https://example.org/x.git", "a b", None),
        ("https://example.org/x.git", "main", "--help"),
        ("https://example.org/x.git", "main", "HEAD~1"),
    ],
)
def test_git_is_not_run_with_unsafe_arguments(url: str, branch: str | None, commit: str | None) -> None:
    def git(argv: Sequence[str], env: dict[str, str], shown: bool) -> tuple[int, list[str]]:
        raise AssertionError("git was asked")

    with pytest.raises(CheckoutFailed):
        Checkout(git, {}, lambda _: None, NONE_ALLOWED, FetchOptions(), None).run(url, branch, commit)


def test_ssh_urls_in_both_forms_are_accepted() -> None:
    asked: list[list[str]] = []
    for url in ("git@example.org:team/x.git", "ssh://git@example.org/team/x.git"):

        def git(argv: Sequence[str], env: dict[str, str], shown: bool) -> tuple[int, list[str]]:
            asked.append(list(argv))
            assert env["GIT_ALLOW_PROTOCOL"] == "https:ssh"
            return 0, ["0" * 40]

        Checkout(git, {}, lambda _: None, NONE_ALLOWED, FetchOptions(), None).run(url, "main", None)
        assert any(url in argv[argv.index("--") :] for argv in asked if "--" in argv)


def test_credentials_are_hidden_in_any_text() -> None:
    text = "fatal: unable to access 'https://ada:x@example.org/r.git': failed"
    assert hide_credentials(text) == "fatal: unable to access 'https://***@example.org/r.git': failed"


def test_hooks_do_not_run(server: FakeServer, start: StartAgent, folder: Path) -> None:
    """The repository has no hooks, not even those of git's templates."""
    repository = Repository(folder)
    start("--allow-local-repositories")
    build = server.queue("ls -A .git/hooks 2> /dev/null; true", repository=str(repository.path))
    server.wait_finished(build)

    assert build.printed == []
    assert os.listdir(repository.path / "hooks")
