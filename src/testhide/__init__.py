"""The program: settings, command line, composition root, embedded engines and supervisor."""

import sys


def _import_structlog_without_rich() -> None:
    """Import structlog before any other module does. It imports rich wherever that is installed, for a console that a
    server does not have: 80 ms and 5 MB of each process.
    """
    if "rich" in sys.modules:
        return
    sys.modules["rich"] = None  # type: ignore[assignment]
    try:
        import structlog  # noqa: F401
    finally:
        del sys.modules["rich"]


_import_structlog_without_rich()
