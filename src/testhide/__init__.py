"""The program: settings, command line, composition root, embedded engines and supervisor."""

import sys


def _import_structlog_without_rich() -> None:
    """Import structlog in a way that keeps it from importing rich. It would do so wherever rich is installed, for a
    console that a server does not have, and cost each process 80 ms and 5 MB.
    """
    if "rich" in sys.modules:
        return
    sys.modules["rich"] = None  # type: ignore[assignment]
    try:
        import structlog  # noqa: F401
    finally:
        del sys.modules["rich"]


_import_structlog_without_rich()
