"""Errors whose cause is outside of this program. The operator sees them as one sentence without a traceback."""


class Fault(Exception):
    """An error that ends the process with `exit_code` and one sentence for the operator."""

    exit_code = 1

    def __init__(self, sentence: str, exit_code: int | None = None) -> None:
        super().__init__(sentence)
        self.exit_code = exit_code or self.exit_code


class InUse(Fault):
    """Another process already uses a port or a data folder."""

    exit_code = 3


class Unreachable(Fault):
    """The configured database or Redis does not answer."""

    exit_code = 4
