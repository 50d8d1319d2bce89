"""Pipeline templates: configuration that the builds of several jobs share."""

from typing import ClassVar

import msgspec

from domain.core.data_keys import template_key
from domain.core.events import Category, Event, changes_of, copy_fields
from domain.jobs import Configuration


class TemplateEvent(Event, frozen=True):
    template_id: int

    @property
    def stream(self) -> str:
        return f"template-{self.template_id}"

    @property
    def data_key(self) -> str | None:
        return template_key(self.template_id)


class TemplateCreated(TemplateEvent, frozen=True):
    name: ClassVar[str] = "template.created"
    sealed: ClassVar[tuple[str, ...]] = ("title", "description", "configuration")
    creator_id: int
    title: str = ""
    configuration: Configuration = Configuration()
    description: str = ""


class TemplateUpdated(TemplateEvent, frozen=True):
    """The template was changed. A field that is None is unchanged."""

    name: ClassVar[str] = "template.updated"
    sealed: ClassVar[tuple[str, ...]] = ("title", "description", "configuration")
    title: str | None = None
    description: str | None = None
    configuration: Configuration | None = None


class TemplateDeleted(TemplateEvent, frozen=True):
    name: ClassVar[str] = "template.deleted"
    destroys_key: ClassVar[bool] = True


class Template(msgspec.Struct, frozen=True):
    template_id: int
    creator_id: int
    title: str
    description: str
    configuration: Configuration
    deleted: bool = False


def overlaid(template: Configuration, job: Configuration) -> Configuration:
    """Returns a build's configuration. Each part comes from the job, or from the template if the job does not have the
    part. Variables and secrets of both are merged; if both have the same name, the job's value wins.
    """
    return Configuration(
        command=job.command or template.command,
        setup=job.setup or template.setup,
        env=template.env | job.env,
        artifacts=job.artifacts or template.artifacts,
        secrets=template.secrets | job.secrets,
        shell=job.shell or template.shell,
        checkout=job.checkout or template.checkout,
        caches=job.caches or template.caches,
        needed_secrets=job.needed_secrets or template.needed_secrets,
        matrix=job.matrix,
    )


def evolve(state: Template | None, event: Event) -> Template | None:
    match event:
        case TemplateCreated():
            return copy_fields(Template, event)
        case TemplateUpdated() if state is not None:
            return msgspec.structs.replace(state, **changes_of(event))
        case TemplateDeleted() if state is not None:
            return msgspec.structs.replace(state, deleted=True)
        case _:
            return state


TEMPLATE = Category[Template | None]("template", None, evolve)
EVENTS = (TemplateCreated, TemplateUpdated, TemplateDeleted)
