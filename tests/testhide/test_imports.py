"""What the processes carry: heavy or foreign libraries only where they are used."""

import subprocess
import sys

import pytest

HEAVY = {"openai", "pyVmomi", "pyVim", "docker", "onelogin", "xmlsec"}
"""At first use, in workers."""
CONSOLE = {"cyclopts", "rich", "pygments"}
NOT_OF = {
    "serve": HEAVY | CONSOLE | {"aiohttp", "arq"},
    "project": HEAVY | CONSOLE | {"arq", "granian", "litestar", "redis", "aiohttp", "httpx", "lxml"},
}
COMPOSED = {
    "serve": "from api.app import create_app; create_app(processes.api_services(settings), '0')",
    "project": "",
}
SCRIPT = """
import contextlib, sys
from testhide import processes
from testhide.cli import main
from testhide.settings import Settings

settings = Settings(database_url="postgresql://127.0.0.1:1/none", redis_url="redis://127.0.0.1:1", secret_key=bytes(32),
                    data_dir=sys.argv[2])
{composed}
# As far as it gets without a database: everything is imported before the first connection.
def no_loop(main):
    main.close()
processes.runtime.run = no_loop
with contextlib.suppress(SystemExit):
    getattr(processes, sys.argv[1])(settings)
print(" ".join({{name.partition(".")[0] for name in sys.modules}}))
"""


@pytest.mark.parametrize("process", ["serve", "project"])
def test_a_process_imports_only_what_it_runs(process: str, tmp_path: object) -> None:
    script = SCRIPT.format(composed=COMPOSED[process])
    done = subprocess.run(
        [sys.executable, "-P", "-c", script, process, str(tmp_path)], capture_output=True, text=True, check=False
    )
    assert done.returncode == 0, done.stderr
    imported = set(done.stdout.split())
    assert {"testhide", "psycopg", "msgspec"} <= imported
    assert not imported & NOT_OF[process]
