"""The agent's zipapp with compiled modules beside the sources, for the Python that runs the tests.

Compiling the agent at each start takes more CPU time than most of its tests. Another Python ignores the compiled
modules and runs the sources.
"""

import importlib.util
import io
import marshal
import zipfile
from functools import cache

from agent.bundle import build_zipapp


@cache
def build_compiled_zipapp() -> bytes:
    content = io.BytesIO(build_zipapp())
    with zipfile.ZipFile(content, "a") as archive:
        for name in archive.namelist():
            code = compile(archive.read(name), name, "exec", dont_inherit=True)
            archive.writestr(f"{name}c", _HEADER + marshal.dumps(code))
    return content.getvalue()


_HEADER = importlib.util.MAGIC_NUMBER + (0b01).to_bytes(4, "little") + bytes(8)
"""Header of a file of bytecode that Python does not compare with its source."""
