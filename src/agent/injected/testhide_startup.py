"""Runs in every Python of a build, as the `sitecustomize` of the agent's own folder on PYTHONPATH.

It names the agent's plugin in PYTEST_PLUGINS once a process imports pytest, beside whatever the job put there. Set for
the whole build instead, the variable would end every pytest whose command replaces PYTHONPATH: the plugin that it names
could not be imported. Python 3.7 or newer; nothing here may fail.
"""

from __future__ import annotations

import os
import sys
from importlib.machinery import PathFinder
from importlib.util import module_from_spec

PLUGIN = "testhide_pytest_selection"


class _WaitForPytest:
    def find_spec(self, name: str, path: object = None, target: object = None) -> None:
        """Asked before every first import of a module; finds none itself."""
        if name == "_pytest":
            names = [name for name in os.environ.get("PYTEST_PLUGINS", "").split(",") if name]
            if PLUGIN not in names:
                os.environ["PYTEST_PLUGINS"] = ",".join([*names, PLUGIN])


def begin() -> None:
    sys.meta_path.insert(0, _WaitForPytest())
    _run_the_other_sitecustomize()


def _run_the_other_sitecustomize() -> None:
    """The one that ours has hidden: the machine's or the job's."""
    own = os.path.dirname(os.path.abspath(__file__))
    others = [folder for folder in sys.path if os.path.abspath(folder) != own]
    spec = PathFinder.find_spec("sitecustomize", others)
    if spec is not None and spec.loader is not None:
        module = module_from_spec(spec)
        sys.modules["sitecustomize"] = module
        spec.loader.exec_module(module)
