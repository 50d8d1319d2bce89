"""Files of images for agents without a registry: the system's Python, a shell and some programs, as a tar to import."""

import io
import re
import shutil
import subprocess
import tarfile
from collections.abc import Iterable, Mapping
from pathlib import Path

from agent.bundle import build_zipapp
from tests.agent.harness import SYSTEM_PYTHON

PROGRAMS = (
    "cat",
    "chmod",
    "dd",
    "echo",
    "env",
    "id",
    "ls",
    "mkdir",
    "mount",
    "nproc",
    "ps",
    "rm",
    "sh",
    "sleep",
    "touch",
)
LEFT_OUT = {
    "test",
    "tests",
    "idlelib",
    "tkinter",
    "ensurepip",
    "site-packages",
    "dist-packages",
    "lib2to3",
}
LEFT_OUT |= {"turtledemo", "pydoc_data"}
SHOW = (
    "import sys, sysconfig;"
    " print(sys.executable, sysconfig.get_paths()['stdlib'], sysconfig.get_config_var('DESTSHARED'))"
)
BUNDLE = "usr/local/lib/testhide-agent.pyz"


def build_image() -> bytes:
    """Returns the tar of an image's files. `docker/agent.Dockerfile` puts the agent at the same place."""
    user = b"root:x:0:0::/root:/bin/sh\ntesthide:x:10001:10001::/testhide:/bin/sh\n"
    return _pack(PROGRAMS, {"etc/passwd": user, BUNDLE: build_zipapp()})


def build_base() -> bytes:
    """Returns the tar of the files of a base for `docker/agent.Dockerfile`, which has git and no agent."""
    return _pack(
        (*PROGRAMS, "git", "grep"), {"etc/passwd": b"root:x:0:0::/root:/bin/sh\n", "etc/group": b"root:x:0:\n"}
    )


def _pack(names: Iterable[str], files: Mapping[str, bytes]) -> bytes:
    shown = subprocess.run([SYSTEM_PYTHON, "-I", "-c", SHOW], capture_output=True, text=True, check=True).stdout.split()
    python, stdlib, shared = (Path(path).resolve() for path in shown)
    packed = io.BytesIO()
    with tarfile.open(fileobj=packed, mode="w") as archive:
        for folder in ("bin", "usr/bin", "usr/local/bin", "etc", "proc", "sys", "dev", "run", "tmp", "testhide"):
            entry = tarfile.TarInfo(folder)
            entry.type, entry.mode = tarfile.DIRTYPE, 0o755
            archive.addfile(entry)
        for name, content in files.items():
            _add(archive, name, content)
        archive.add(stdlib, str(stdlib)[1:], filter=_keep)
        programs = {name: Path(found).resolve() for name in names if (found := shutil.which(name))}
        for name, program in programs.items():
            archive.add(program, f"bin/{name}", recursive=False)
        archive.add(python, "usr/local/bin/python3", recursive=False)
        if str(python) != "/usr/local/bin/python3":
            archive.add(python, str(python)[1:], recursive=False)  # finds its library by its own path
        for library in sorted(_libraries([python, *programs.values(), *shared.glob("*.so")])):
            archive.add(library.resolve(), str(library)[1:], recursive=False)
    return packed.getvalue()


def _keep(entry: tarfile.TarInfo) -> tarfile.TarInfo | None:
    return None if LEFT_OUT & set(Path(entry.name).parts) or entry.name.endswith(".a") else entry


def _add(archive: tarfile.TarFile, name: str, content: bytes) -> None:
    entry = tarfile.TarInfo(name)
    entry.size, entry.mode = len(content), 0o644
    archive.addfile(entry, io.BytesIO(content))


def _libraries(files: Iterable[Path]) -> set[Path]:
    found: set[Path] = set()
    for file in files:
        listed = subprocess.run(["ldd", str(file)], capture_output=True, text=True, check=False).stdout
        found |= {Path(path) for path in re.findall(r"(/\S+\.so\S*) \(0x", listed)}
    return found
