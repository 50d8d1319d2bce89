"""The documentation names commands that the program has and tests run, and shows code that is in the source."""

import re
import shlex
from collections.abc import Iterator
from pathlib import Path

import pytest
from bench.support.tampering.kinds import KINDS

from testhide.cli.app import app
from testhide.setting_checks import variable
from testhide.settings import MEANINGS, OTHER_NAMES, SECRETS
from tests.support.documentation import NOT_RUN, PAGES, ROOT, commands_of, documented

COMMAND = re.compile(r"(?:^|\$\(|=\S+ )((?:testhide|\./dev) [^`]*)")
SHELL = {">", "|", "||", "&&", ";"}
OTHER_TESTS = {
    "audit accept": "tests/testhide/test_audit_docs.py",
    "migrate": "tests/testhide/test_processes.py",
    "reactions retry": "tests/testhide/test_reactions.py",
    **dict.fromkeys(("prepare", "serve", "project", "dispatch", "work"), "tests/real/stacks/test_production.py"),
}
"""Verbs that the documentation mentions and shows no command of: who runs them."""
IN_DEV = set(re.findall(r"^([a-z][a-z| ]*)\)", (ROOT / "dev").read_text(), re.MULTILINE))


def words(command: str) -> list[str]:
    """Without the program, what the shell does with its output, and the explanation behind two spaces or `#`.

    A number is right for every variable.
    """
    found = shlex.split(re.sub(r"\$\w+", "1", re.split(r"  |\)| #", command)[0]))[1:]
    return found[: next((number for number, word in enumerate(found) if word in SHELL), len(found))]


def is_long(arguments: list[str]) -> bool:
    return arguments[0] in ("bench", "long")


def is_taken(arguments: list[str], *, whole: bool) -> bool:
    if is_long(arguments):
        folder = ROOT / "bench" / ("" if arguments[0] == "bench" else "long")
        return arguments[1] == "NAME" or (folder / f"{arguments[1]}.py").exists()
    if any(arguments[0] in verbs.split(" | ") for verbs in IN_DEV) or "..." in arguments:
        return True
    if whole:
        app.parse_args(arguments, print_error=False, exit_on_error=False)  # raises what it would print
    _, chain, rest = app.parse_commands(arguments)
    is_group = any(not name.startswith("-") for name in chain[-1])
    return len(chain) > 1 and not (rest and is_group)


def test_the_example_of_upcasters_is_the_code() -> None:
    shown = re.findall(r"^def .*?(?=\n\n|\n```)", (ROOT / "docs" / "events.md").read_text(), re.MULTILINE | re.DOTALL)
    source = (ROOT / "src" / "domain" / "results.py").read_text()
    assert len(shown) == 2
    assert [function for function in shown if function not in source] == []


def inline_commands(page: Path) -> Iterator[str]:
    """Those of this project, and those that install something, in the midst of a sentence. A name alone is none."""
    for line in page.read_text().splitlines():
        if not line.startswith("    "):
            yield from re.findall(r"`((?:testhide|\./dev|pip|docker|python3?) [^`]+)`", line)


def verb_of(arguments: list[str]) -> str:
    return "".join(f"{name} " for name in app.parse_commands(arguments)[0])


def test_every_setting_is_listed() -> None:
    page = (ROOT / "docs" / "settings.md").read_text()
    listed = dict(re.findall(r"^\| `(\w+)` \| (.*) \|$", page, re.MULTILINE))
    assert listed == {variable(field): meaning for field, meaning in MEANINGS.items()} | OTHER_NAMES
    assert f"Each of `{'`, `'.join(map(variable, SECRETS))}`" in page


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_program_takes_every_documented_command(page: Path) -> None:
    """A line of an indented block stands there to be copied, so it is taken as a whole."""
    shown = [(command.text, True) for command in commands_of(page)]
    for text, is_block in [*shown, *((text, False) for text in inline_commands(page))]:
        for command in COMMAND.findall(text):
            assert is_taken(words(command), whole=is_block), command


def test_every_documented_command_is_run_or_says_why_not() -> None:
    run, verbs = set(), {f"{verb} " for verb in OTHER_TESTS}
    for test in (ROOT / "tests").rglob("test_*.py"):
        for call in re.findall(r"documented\(\s*(\"[^)]*)\)", test.read_text()):
            page, *headings = re.findall(r'"([^"]+)"', call)
            run |= {(page, heading) for heading in headings}
            commands = [found for command in documented(page, *headings) for found in COMMAND.findall(command)]
            verbs |= {verb_of(words(command)) for command in commands}

    def is_run(arguments: list[str]) -> bool:
        return is_long(arguments) or any(verb.startswith(verb_of(arguments)) for verb in verbs)

    mentioned = set()
    for page in PAGES:
        name = str(page.relative_to(ROOT))
        for command in commands_of(page):
            mentioned.add(command.text)
            assert command.text in NOT_RUN or (name, command.heading) in run, f"{name}: {command.text}"
        for text in inline_commands(page):
            mentioned.add(text)
            of_ours = [words(command) for command in COMMAND.findall(text)]
            assert text in NOT_RUN or (of_ours and all(map(is_run, of_ours))), f"{name}: {text}"
    assert set(NOT_RUN) <= mentioned, "a reason for nothing"


def test_the_table_of_who_notices_what_has_all_changes_of_the_bench() -> None:
    section = (ROOT / "docs" / "audit.md").read_text().partition("### Who notices what")[2]
    table = section.partition("| what is changed |")[2].partition("\n\n")[0]
    listed = re.findall(r"^\| ([^|]+) \|", table, re.MULTILINE)
    assert listed == [f"{kind.area}: {kind.what}" for kind in KINDS]
