"""Runs at the start of every Python process of a build: the agent's `sitecustomize` on PYTHONPATH calls it.

In a process that imports pytest, it adds the agent's plugin to the job's own plugins in PYTEST_PLUGINS. This variable
is not set for the whole build: a command that sets PYTHONPATH to something else does not run this file, and the pytest
of this command could not import the plugin.

In a process that imports unittest, it selects the tests that the build asks for. This module supports Python 3.8 or
newer, and must never raise.
"""

from __future__ import annotations

import os
import sys
from importlib import import_module
from importlib.machinery import PathFinder
from importlib.util import module_from_spec

PLUGIN = "testhide_pytest_selection"


class _ImportHook:
    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        """Prepare pytest or unittest when Python is about to import it. Return None, so that Python goes on with other
        finders, which find the module.
        """
        if name == "unittest.main" and os.environ.get("TESTHIDE_TEST_IDS_FILE"):
            import_module("testhide_unittest_selection").begin()
        if name == "_pytest":
            names = [name for name in os.environ.get("PYTEST_PLUGINS", "").split(",") if name]
            if PLUGIN not in names:
                os.environ["PYTEST_PLUGINS"] = ",".join([*names, PLUGIN])


def begin() -> None:
    sys.meta_path.insert(0, _ImportHook())
    _run_hidden_sitecustomize()


def _run_hidden_sitecustomize() -> None:
    """Run the `sitecustomize` of the machine or the job. Python does not run it itself, since the agent's
    `sitecustomize` comes first on the path.
    """
    agents_folder = os.path.dirname(os.path.abspath(__file__))
    others = [folder for folder in sys.path if os.path.abspath(folder) != agents_folder]
    spec = PathFinder.find_spec("sitecustomize", others)
    if spec is not None and spec.loader is not None:
        module = module_from_spec(spec)
        sys.modules["sitecustomize"] = module
        spec.loader.exec_module(module)
