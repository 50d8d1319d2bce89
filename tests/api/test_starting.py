"""Work that `serve` does at its start, while it already answers."""

import time
from pathlib import Path

from api.http.spool import Spool
from tests.support.in_process_server import serve_in_process
from tests.support.server import Server

TIMEOUT_S = 20.0


def test_files_that_a_killed_process_left_are_removed_and_those_of_running_ones_stay(server: Server) -> None:
    spool = Spool(Path(server.settings.data_dir, "spool"))
    abandoned = spool.folder / "upload-killed"
    abandoned.write_bytes(b"half")
    with spool.open("upload-") as received:
        with serve_in_process(server):
            assert not abandoned.exists()
            assert received.path.exists()
        received.write(b"the rest")
    assert not received.path.exists()


def test_known_issues_are_read_before_the_first_report(server: Server) -> None:
    server.wait_until_projected()
    with serve_in_process(server) as process:
        deadline = time.monotonic() + TIMEOUT_S
        while not process.services.reports.rule_book.position:
            assert time.monotonic() < deadline
            time.sleep(0.01)  # between two looks
