"""Commands on pipeline templates: create, update, delete."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Literal

from commands.handler import Command, must_exist
from domain.core.errors import Conflict, NotFound
from domain.core.events import Event
from domain.jobs import CheckoutOptions, Configuration, DependencyCache, ShellName, merge_secrets
from domain.templates import TEMPLATE, Template, TemplateCreated, TemplateDeleted, TemplateUpdated


@dataclass(frozen=True)
class CreateTemplate(Command, of=TEMPLATE):
    """Creates a template. The values in `secrets` are encrypted."""

    template_id: int
    creator_id: int
    title: str
    description: str = ""
    command: str = ""
    setup: Sequence[str] = ()
    env: Mapping[str, str] = field(default_factory=dict)
    artifacts: Sequence[str] = ()
    secrets: Mapping[str, bytes] = field(default_factory=dict)
    shell: ShellName | None = None
    checkout: CheckoutOptions | None = None
    caches: Sequence[DependencyCache] = ()

    def decide(self, template: Template | None) -> Iterable[Event]:
        if template is not None:
            return
        yield self.event(
            TemplateCreated,
            configuration=Configuration(
                command=self.command,
                setup=list(self.setup),
                env=dict(self.env),
                artifacts=list(self.artifacts),
                secrets=dict(self.secrets),
                shell=self.shell,
                checkout=self.checkout,
                caches=list(self.caches),
            ),
        )


@dataclass(frozen=True)
class UpdateTemplate(Command, of=TEMPLATE):
    """Changes the given fields of a template. A field that is None stays unchanged. A secret with the value None is
    removed; a secret that is not named stays.
    """

    template_id: int
    title: str | None = None
    description: str | None = None
    command: str | None = None
    setup: Sequence[str] | None = None
    env: Mapping[str, str] | None = None
    artifacts: Sequence[str] | None = None
    secrets: Mapping[str, bytes | None] | None = None
    shell: ShellName | None = None
    checkout: CheckoutOptions | None = None
    caches: Sequence[DependencyCache] | None = None
    cleared_options: tuple[Literal["shell", "checkout"], ...] = ()
    """Names of the options that the command sets to None."""

    def decide(self, template: Template | None) -> Iterable[Event]:
        template = must_exist(template, f"pipeline template {self.template_id}")
        stored = template.configuration
        configuration = Configuration(
            command=stored.command if self.command is None else self.command,
            setup=stored.setup if self.setup is None else list(self.setup),
            env=stored.env if self.env is None else dict(self.env),
            artifacts=stored.artifacts if self.artifacts is None else list(self.artifacts),
            secrets=merge_secrets(self.secrets or {}, stored.secrets),
            shell=None if "shell" in self.cleared_options else self.shell or stored.shell,
            checkout=None if "checkout" in self.cleared_options else self.checkout or stored.checkout,
            caches=stored.caches if self.caches is None else list(self.caches),
        )
        yield from self.update(TemplateUpdated, template, configuration=configuration)


@dataclass(frozen=True)
class DeleteTemplate(Command, of=TEMPLATE):
    """Deletes a template. `jobs_using` is the number of jobs that use it, as the read model has it. Raises Conflict if
    the number is not 0.
    """

    template_id: int
    jobs_using: int = 0

    def decide(self, template: Template | None) -> Iterable[Event]:
        if template is None:
            raise NotFound(f"There is no pipeline template {self.template_id}.")
        if template.deleted:
            return
        if self.jobs_using:
            which = "1 job uses" if self.jobs_using == 1 else f"{self.jobs_using} jobs use"
            raise Conflict(
                f"{which} the pipeline template {template.title!r}; give them another one, or none,"
                " by PUT /api/v3/jobs/{id}, then delete it."
            )
        yield TemplateDeleted(template_id=self.template_id)
