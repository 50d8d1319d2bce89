"""Errors with a cause outside of this program. The operator sees one sentence, without a traceback."""


class Fault(Exception):
    """Error that ends the process with `exit_code`, and with one sentence for the operator."""

    exit_code = 1

    def __init__(self, sentence: str, exit_code: int | None = None) -> None:
        super().__init__(sentence)
        self.exit_code = exit_code or self.exit_code


class InUse(Fault):
    """Raised if another process uses the port or the data folder."""

    exit_code = 3


class Unreachable(Fault):
    """Raised if the configured database or Redis does not answer, or if the database is too old."""

    exit_code = 4
