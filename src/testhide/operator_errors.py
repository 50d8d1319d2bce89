"""What goes wrong outside of this program and is told to the operator in one sentence, without a trace."""


class Fault(Exception):
    """One clear sentence for the operator; `exit_code` is what the process ends with."""

    def __init__(self, sentence: str, exit_code: int = 1) -> None:
        super().__init__(sentence)
        self.exit_code = exit_code


class InUse(Fault):
    """A port or a data folder that another process holds."""

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence, exit_code=3)


class Unreachable(Fault):
    """An outside service that does not answer."""

    def __init__(self, sentence: str) -> None:
        super().__init__(sentence, exit_code=4)
