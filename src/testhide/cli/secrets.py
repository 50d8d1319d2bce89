"""`testhide secrets`: rotates the server's secret key."""

import os

from cyclopts import App

from testhide.cli.options import DataFolder, Flag, run_on_stack
from testhide.secret_rotation import rotate as rotate_key
from testhide.settings import Settings

app = App(name="secrets", help="Rotate the server's secret key.")


@app.command
def rotate(*, leaked: Flag = False, data: DataFolder = None) -> int:
    """Replace the secret key by a new one, while the server runs or not. If the command is interrupted, run it again.

    For a data folder, the command makes the new key and stores it in the folder's file secret.key. Without a data
    folder, set TESTHIDE_SECRET_KEY to the new key and TESTHIDE_OLD_SECRET_KEY to the one in use.

    Parameters
    ----------
    leaked
        Somebody else may have the old key: also end all sessions, and invalidate all links for setting a password.
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
