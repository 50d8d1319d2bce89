"""Reads `.testhide.yml`. Converts its values, and checks the rules that types cannot express: for example, that the
template of a job exists.
"""

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial
from itertools import islice

from commands.configurations import check_labels, check_parts, check_repository
from commands.matrix_values import check_matrix
from commands.pipelines.converting import MAX_FAULTS, PartialNodes, convert, suggest
from commands.pipelines.file import FileTemplate, PipelineFile
from commands.pipelines.yaml_nodes import FileFault, InvalidFile, YamlList, YamlMapping, YamlNode, read_nodes
from commands.trigger_values import check_triggers
from domain.core.errors import Invalid
from domain.needs import find_circle

FIELD_PART = re.compile(r"\[[0-9]+\]|[^.\[\]]+")
NEEDS = "name the jobs that must have passed before by `needs`"
AS_MATRIX = "list values by `matrix` with `axes`, `include` and `exclude`: each combination is a build"
HINTS = {
    "on": "say by `triggers` what starts a job",
    "true": "say by `triggers` what starts a job",
    "trigger": "say by `triggers` what starts a job",
    "rules": "say by `triggers` what starts a job",
    "only": "say by `triggers` what starts a job",
    "except": "say by `triggers` what starts a job",
    "workflow": "say by `triggers` of each job what starts it",
    "dependencies": NEEDS,
    "depends_on": NEEDS,
    "dependsOn": NEEDS,
    "requires": NEEDS,
    "stage": NEEDS,
    "stages": NEEDS,
    "script": "write the lines as one text in `command: |`, or those that prepare the build as `setup`",
    "run": "write it as `command`",
    "steps": "write the step that decides as `command`, and those before it as `setup`",
    "before_script": "write it as `setup`",
    "after_script": "write it at the end of `command`, by `trap … EXIT`",
    "environment": "write variables as `env`",
    "variables": "write variables as `env`",
    "runs-on": "choose nodes by `pool`, `pool_labels` or `required_tags`",
    "agent": "choose nodes by `pool`, `pool_labels` or `required_tags`",
    "tags": "choose nodes by `required_tags`, and tags of git by `triggers`",
    "image": "builds run in no container of their own: choose nodes by `pool` or `required_tags`",
    "services": "builds run in no container of their own: start services in `setup`",
    "extends": "name a template by `template`",
    "uses": "name a template by `template`",
    "cache": "write it as `caches`",
    "include": "other files cannot be included: share parts of jobs by `templates`",
    "timeout": "write it as `timeout_minutes`",
    "timeout-minutes": "write it as `timeout_minutes`",
    "after": NEEDS,
    "strategy": AS_MATRIX,
    "parallel": AS_MATRIX,
    "name": "the name of a job is its key in `jobs`",
    "branches": "write it below `triggers`",
    "cron": "write it below `triggers`",
    "schedule": "write it as `cron`, below `triggers`",
    "<<": "merge keys are not supported: share parts of jobs by `templates`",
}
"""Key that other CI systems or YAML 1.1 have, but this format has not -> advice on what to write instead."""


@dataclass(frozen=True)
class PipelineDocument:
    """A file that was read, with the positions of its values."""

    file: PipelineFile
    root: YamlNode
    partial: PartialNodes

    def find(self, *path: str) -> YamlNode | None:
        """Returns the node to which these keys lead from the root; None if there is none."""
        node: YamlNode | None = self.root
        for part in path:
            node = None if node is None else _step(node, part)
        return node

    def is_whole(self, *path: str) -> bool:
        """Returns whether a part of the file has no mistakes. Also True if the file has no such part."""
        node = self.find(*path)
        return node is None or node not in self.partial

    def fault(self, field: str, message: str, *path: str) -> FileFault:
        """Returns a mistake with the position of a value in the file. `path` has the keys from the root to a part of
        the file. `field` leads from this part to the value, such as `artifacts[2]`. Indexes in `field` count only items
        without mistakes, since the struct `file` has no others. If the file does not contain the value, the mistake has
        the position of the nearest value above.
        """
        node = self.root
        for part in path:
            node = _step(node, part) or node
        following: YamlNode | None = node

        def follow(match: re.Match[str]) -> str:
            nonlocal node, following
            part = match[0]
            if isinstance(following, YamlList) and part.startswith("["):
                part = f"[{self.partial.find_indexes(following)[int(part[1:-1])]}]"
            following = None if following is None else _step(following, part)
            node = following or node
            return part

        field = FIELD_PART.sub(follow, field)
        return node.fault(f"{field or path[-1]} {message}")


def read_pipelines(content: bytes) -> PipelineDocument:
    """Returns the document that a file contains. Raises InvalidFile with all mistakes that were found."""
    root = read_nodes(content)
    converted = convert(root, PipelineFile, HINTS)
    document = PipelineDocument(converted.value, root, converted.partial)
    faults = [*converted.faults, *islice(_find_faults(document), MAX_FAULTS - len(converted.faults))]
    if faults:
        raise InvalidFile(sorted(faults))
    return document


def _find_faults(document: PipelineDocument) -> Iterator[FileFault]:
    """Yields the mistakes that the types of the fields cannot express. Checks rules between several fields only where
    none of these fields has a mistake.
    """
    file = document.file
    for name, part in file.templates.items():
        yield from _check_part(document, part, "templates", name)
    for name, job in file.jobs.items():
        path = ("jobs", name)
        yield from _check_part(document, job, *path)
        if job.repository is not None:
            yield from _collect(document, partial(check_repository, "repository", job.repository), *path)
        yield from _collect(document, partial(check_labels, "pool_labels", job.pool_labels), *path)
        are_whole = document.is_whole(*path, "triggers")
        yield from _collect(document, partial(check_triggers, job.triggers, are_whole=are_whole), *path, "triggers")
        template = file.templates.get(job.template or "")
        for part_name in sorted(job.env.keys() & {*job.secrets}):
            yield document.fault("secrets", f"{part_name} is also in `env`: give it in one of the two", *path)
        variables = {name for part in (job, template) if part is not None for name in (*part.env, *part.secrets)}
        is_whole = document.is_whole(*path, "matrix")
        yield from _collect(document, partial(check_matrix, job.matrix, variables, is_whole=is_whole), *path)
        yield from _check_needs(document, name, job.needs)
        if job.pool is not None and job.pool_labels:
            yield document.fault("pool_labels", "are instead of `pool`: leave one of them out", *path)
        if job.template is not None and template is None:
            known = suggest(job.template, list(file.templates))
            yield document.fault("template", f"{job.template} is not among the `templates` of the file{known}", *path)
        elif (
            _lacks_command(document, job, *path)
            and document.is_whole(*path, "template")
            and (template is None or _lacks_command(document, template, "templates", job.template or ""))
        ):
            needs = "needs `command:`" if template is None else "needs `command:`, since its template has none"
            yield document.fault("", needs, *path)
    known_needs = {name: [need for need in job.needs if need in file.jobs] for name, job in file.jobs.items()}
    if (circle := find_circle(known_needs)) is not None and len(circle) > 2:
        yield document.fault("needs", f"is a circle: {' needs '.join(circle)}", "jobs", circle[0])


def _lacks_command(document: PipelineDocument, part: FileTemplate, *path: str) -> bool:
    """Returns whether a job or template really has no command. False if a mistake, such as an unknown key, may be the
    reason.
    """
    node = document.find(*path)
    keys = node.entries.keys() if isinstance(node, YamlMapping) else {""}
    return part.command is None and keys <= set(part.__struct_fields__) and document.is_whole(*path, "command")


def _check_needs(document: PipelineDocument, name: str, needs: list[str]) -> Iterator[FileFault]:
    for number, need in enumerate(needs):
        fault = None
        if need == name:
            fault = "is the job itself"
        elif need not in document.file.jobs:
            fault = f"{need} is not among the `jobs` of the file{suggest(need, list(document.file.jobs))}"
        elif need in needs[:number]:
            fault = "is given twice"
        if fault is not None:
            yield document.fault(f"needs[{number}]", fault, "jobs", name)


def _check_part(document: PipelineDocument, part: FileTemplate, *path: str) -> Iterator[FileFault]:
    return _collect(document, partial(check_parts, "", part.env, part.secrets, part.artifacts, part.caches), *path)


def _collect(document: PipelineDocument, check: Callable[[], None], *path: str) -> Iterator[FileFault]:
    """Calls `check`. If it raises Invalid, yields a fault for each field that the error names, with the field's
    position in the file.
    """
    try:
        check()
    except Invalid as refused:
        for field, message in refused.errors:
            yield document.fault(field, message, *path)


def _step(node: YamlNode, part: str) -> YamlNode | None:
    if isinstance(node, YamlList) and part.startswith("["):
        index = int(part[1:-1])
        return node.items[index] if index < len(node.items) else None
    if isinstance(node, YamlMapping) and part in node.entries:
        return node.entries[part][1]
    return None
