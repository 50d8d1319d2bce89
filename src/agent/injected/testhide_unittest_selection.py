"""Limits unittest to the tests that TESTHIDE_TEST_IDS_FILE lists, one a line: `module.Class.method`, or
`file.py::Class::method` as the server knows tests from reports that name a file (unittest-xml-reporting). A subtest,
which such reports write as `method (i=1)`, stands for its whole test.

A method named on the command line runs even if the file does not list it. The module has no effect in a Python process
that a test starts, nor on pytest, which has its own plugin. No defect of this module ends a test run.
"""

from __future__ import annotations

import inspect
import os
import sys
from contextlib import suppress
from typing import Any, Iterator  # noqa: UP035 (collections.abc is not enough for 3.8)

_RUNNING, _PYTEST_RUNNING = "TESTHIDE_UNITTEST_RUNNING", "TESTHIDE_PYTEST_RUNNING"


def begin() -> None:
    """Make unittest's loader select the listed tests. This function must be called while `unittest` is being imported,
    after `unittest.loader` has been imported.
    """
    with suppress(Exception):
        loader = sys.modules["unittest.loader"].TestLoader
        load = loader.loadTestsFromTestCase
        process_id = str(os.getpid())
        with open(os.environ["TESTHIDE_TEST_IDS_FILE"], encoding="utf-8") as file:
            wanted = frozenset(line.partition(" ")[0] for line in file.read().split("\n"))

        def load_wanted(self: Any, case: Any) -> Any:
            suite = load(self, case)
            with suppress(Exception):
                if os.environ.get(_RUNNING, process_id) == process_id and _PYTEST_RUNNING not in os.environ:
                    os.environ[_RUNNING] = process_id
                    return self.suiteClass([test for test in suite if not wanted.isdisjoint(_list_names(test))])
            return suite

        loader.loadTestsFromTestCase = load_wanted


def _list_names(test: Any) -> Iterator[str]:
    """Yield the names by which a list may name a test: the id of the test; the file, followed by the id; and the file,
    followed by the id without the module. Reports use both forms with the file.
    """
    name, module = test.id(), type(test).__module__
    yield name
    with suppress(Exception):
        path = os.path.relpath(str(inspect.getsourcefile(type(test)))).replace(os.sep, "/")
        yield "::".join([path, *name.split(".")])
        yield "::".join([path, *name[len(module) + 1 :].split(".")])
