"""`testhide secrets`: rotate the server's secret key."""

import os

from cyclopts import App

from testhide.cli.options import DataFolder, Flag, run_on_stack
from testhide.secret_rotation import rotate as rotate_key
from testhide.settings import Settings

app = App(name="secrets", help="The secret key of the server.")


@app.command
def rotate(*, leaked: Flag = False, data: DataFolder = None) -> int:
    """Replace the secret key by a new one, while the server runs or not. When it is interrupted, run it again.

    A data folder gets a new key in its file secret.key. Elsewhere TESTHIDE_SECRET_KEY is the new key, and
    TESTHIDE_OLD_SECRET_KEY the one in use.

    Parameters
    ----------
    leaked
        End all sessions, and make all links to set a password useless: somebody else may have the old key.
    """

    async def work(settings: Settings) -> int:
        done = await rotate_key(settings, os.environ, leaked=leaked, on_progress=_print_progress)
        if done.is_done_before:
            print("the new secret key is the only one that opens the database: nothing to do")
            return 0
        for name, count in done.unreadable.items():
            print(f"{name}: {count:,} did not open before, and are as they were")
        print("the secret key is rotated: the old one opens nothing but backups from before")
        return 0

    return run_on_stack(data, work)


def _print_progress(name: str, moved: int) -> None:
    print(f"{name}: {moved:,} moved to the new key", flush=True)
