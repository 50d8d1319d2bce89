"""`testhide migrate`: makes or changes the tables of the database. It is not in `testhide.cli.processes`, because its
option needs the parser of the command line, which server processes must not load.
"""

import asyncio
import os

from testhide import preparation
from testhide.cli.options import DataFolder
from testhide.stack.offline import settings_of


def migrate(*, data: DataFolder = None) -> int:
    """Make or change the database's tables. Say which read models have to be built from the log."""
    with settings_of(data, os.environ) as settings:
        for name in preparation.migrate(settings):
            print(f"{name} has to be built from the log: run `testhide projections rebuild {name} --switch`")
        if not asyncio.run(preparation.has_users(settings)):
            print(
                "There is no user yet: `testhide prepare` makes the first administrator"
                " (TESTHIDE_ADMIN_EMAIL, TESTHIDE_ADMIN_PASSWORD)."
            )
    return 0
