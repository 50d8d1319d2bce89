"""A bare git repository with commits on several branches."""

import subprocess
from pathlib import Path

ENV = {
    "GIT_CONFIG_NOSYSTEM": "1",
    "HOME": "/nonexistent",
    "PATH": "/usr/local/bin:/usr/bin:/bin",
    "GIT_COMMITTER_NAME": "Ada",
    "GIT_COMMITTER_EMAIL": "ada@example.org",
}
DATE = 1_749_540_600
"""Time of the first commit. Each later commit follows a minute after the one before."""


class GitRepository:
    """A repository in which `commits` are the three commits of `main`, the oldest first. The branch `older` is at the
    first of them, and each branch in `branches` at the last.

    The file `ci/job.yml` contains the number of its commit. A single `git fast-import` makes the repository, without a
    work tree.
    """

    def __init__(self, path: Path, branches: tuple[str, ...] = ("release/3.13", "release/3.14", "relics")) -> None:
        self.path = path
        path.parent.mkdir(parents=True, exist_ok=True)
        self.git("init", "--quiet", "--bare", "--template=", "-b", "main", str(path), at=path.parent)
        stream = "".join(self._commit(number) for number in range(3))
        stream += "reset refs/heads/older\nfrom :1\n\n"
        stream += "".join(f"reset refs/heads/{branch}\nfrom :3\n\n" for branch in branches)
        subprocess.run(
            ["git", "fast-import", "--quiet"], cwd=path, env=ENV, input=stream.encode(), check=True, timeout=20
        )
        self.commits = self.git("rev-list", "--reverse", "main").split()

    def _commit(self, number: int) -> str:
        message, content = f"Commit {number}\n\nWhy.", f"number: {number}\n"
        parent = f"from :{number}\n" if number else ""
        return (
            f"commit refs/heads/main\nmark :{number + 1}\n"
            f"author Alice <alice@example.org> {DATE + 60 * number} +0000\n"
            f"committer Ada <ada@example.org> {DATE + 60 * number} +0000\n"
            f"data {len(message)}\n{message}\n{parent}"
            f"M 100644 inline ci/job.yml\ndata {len(content)}\n{content}\n"
        )

    def write(self, path: str, content: str, branch: str = "main") -> str:
        """Commits a file on a branch, and returns the id of the commit. A new branch begins at `main`."""
        quoted = path.replace("\\", "\\\\").replace('"', '\\"')
        return self.commit(f'M 100644 inline "{quoted}"\ndata {len(content.encode())}\n{content}\n', branch)

    def commit(self, changes: str, branch: str = "main") -> str:
        """Commits changes, given as `git fast-import` reads them, and returns the id of the commit."""
        named = self.git("for-each-ref", f"refs/heads/{branch}", "--format=%(objectname)")
        base = named or self.git("rev-parse", "main")
        stream = (
            f"commit refs/heads/{branch}\ncommitter Ada <ada@example.org> {DATE + 600} +0000\n"
            f"data 6\nChange\nfrom {base}\n{changes}"
        )
        subprocess.run(
            ["git", "fast-import", "--quiet"], cwd=self.path, env=ENV, input=stream.encode(), check=True, timeout=20
        )
        return self.git("rev-parse", f"refs/heads/{branch}")

    def git(self, *arguments: str, at: Path | None = None) -> str:
        done = subprocess.run(
            ["git", *arguments], cwd=at or self.path, env=ENV, check=True, capture_output=True, text=True, timeout=20
        )
        return done.stdout.strip()
