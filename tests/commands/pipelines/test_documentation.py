"""The examples of docs/pipelines.md are files that the server takes, and its table has all keys."""

import re

import pytest

from commands.pipelines.file import FileJob, FileTemplate
from commands.pipelines.reading import read_pipelines
from commands.trigger_values import NewTriggers
from domain.jobs import CheckoutOptions, DependencyCache
from tests.support.documentation import ROOT

PAGE = (ROOT / "docs" / "pipelines.md").read_text()
EXAMPLES = re.findall(r"^```yaml\n(.*?)^```", PAGE, re.MULTILINE | re.DOTALL)


@pytest.mark.parametrize("number", range(len(EXAMPLES)))
def test_an_example_has_no_mistakes(number: int) -> None:
    assert read_pipelines(EXAMPLES[number].encode()).file.jobs


def test_every_key_is_explained() -> None:
    (table,) = re.findall(r"\| key \| meaning \|\n(.*?)\n\n", PAGE, re.DOTALL)
    explained = [key for row in table.splitlines() for key in re.findall(r"`(\w+)`", row.split("|")[1])]
    assert sorted(explained) == sorted(FileJob.__struct_fields__)
    parts = {*NewTriggers.__struct_fields__, *CheckoutOptions.__struct_fields__, *DependencyCache.__struct_fields__}
    assert set(re.findall(r"`(\w+)`", table)) >= parts
    shared = PAGE.partition("parts that jobs share: ")[2].partition(". ")[0]
    assert set(re.findall(r"`(\w+)`", shared)) == set(FileTemplate.__struct_fields__)
