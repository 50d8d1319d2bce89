"""Command on the explanation of a build's failure. `workers/explanations.py` finds the excerpts of the log."""

from collections.abc import Iterable
from dataclasses import dataclass

from commands.handler import Command
from domain.builds import BUILD, AnyBuild, BuildExplained, Finished
from domain.core.events import Event
from domain.failures.log_explanations import VERSION, Excerpt


@dataclass(frozen=True)
class ExplainBuild(Command, of=BUILD):
    """Records the excerpts that explain why a build failed. Has no effect if the build is explained already, did not
    fail, or was deleted meanwhile.
    """

    build_id: int
    excerpts: tuple[Excerpt, ...]
    lines: tuple[tuple[str, ...], ...]
    """Lines of each excerpt, the best excerpt first."""

    def decide(self, build: AnyBuild | None) -> Iterable[Event]:
        if isinstance(build, Finished) and build.status == "failed" and not build.explained and self.excerpts:
            yield BuildExplained(
                **build.ids,
                attempt=build.attempt,
                ranking=VERSION,
                excerpts=list(self.excerpts),
                lines=[list(lines) for lines in self.lines],
            )
