"""Bodies of requests that set the configuration of a job."""

from collections.abc import Mapping
from typing import Annotated

from msgspec import Meta

from commands.configurations import Artifacts, BuildOptions, Command, SecretChanges, SetupLine, Variables
from commands.matrix_values import check_matrix
from domain.core.errors import Invalid
from domain.matrix import Matrix
from store.crypto.secrets import Secrets


class NewConfiguration(BuildOptions):
    command: Command
    """Shell command to run. A command of several lines ends at the first line that fails (`sh -e`), as `setup` does."""
    setup: Annotated[list[SetupLine], Meta(max_length=100)]
    env: Variables
    artifacts: Artifacts
    secrets: SecretChanges = {}
    """Values by name. A secret that is not sent keeps its value; null removes a secret. A list of names, as GET returns
    it, changes nothing; the job must have secrets with these names.
    """
    matrix: Matrix | None = None
    """Values by name. Each start of the job queues a build for each combination of them; null for a single build."""

    @property
    def secret_values(self) -> Mapping[str, str | None]:
        return self.secrets if isinstance(self.secrets, dict) else {}

    @property
    def kept_secrets(self) -> list[str]:
        return [] if isinstance(self.secrets, dict) else self.secrets

    def check(self) -> None:
        """Raises Invalid if the matrix makes no sense, or if two of env, secrets and matrix set one variable."""
        given = {name for name, value in self.secret_values.items() if value is not None}
        if both := sorted(self.env.keys() & given):
            raise Invalid.field(f"secrets.{both[0]}", "is also in env, so that one of the two values would be ignored")
        check_matrix(self.matrix, {*self.env, *self.secrets})


def seal_values(secrets: Secrets, values: Mapping[str, str | None]) -> dict[str, bytes | None]:
    return {name: None if value is None else secrets.seal(value) for name, value in values.items()}
