"""The program: settings, command line, composition root, embedded engines and supervisor."""

import sys


def _import_structlog_without_rich() -> None:
    """Import structlog without rich. Where rich is installed, structlog imports it for a console, which a server does
    not have; this would cost each process 80 ms and 5 MB.
    """
    if "rich" in sys.modules:
        return
    sys.modules["rich"] = None  # type: ignore[assignment]
    try:
        import structlog  # noqa: F401
    finally:
        del sys.modules["rich"]


_import_structlog_without_rich()
