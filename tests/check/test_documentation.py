"""The documentation names commands that the program has, and shows code that is in the source."""

import re
import shlex
from pathlib import Path

import pytest

from testhide.cli.app import app

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
COMMAND = re.compile(r"(?:^|\$\(|=\S+ )((?:testhide|\./dev) [^`]*)")
SHELL = {">", "|", "||", "&&", ";"}
IN_DEV = set(re.findall(r"^([a-z][a-z| ]*)\)", (ROOT / "dev").read_text(), re.MULTILINE))


def words(command: str) -> list[str]:
    """Without the program, what the shell does with its output, and the explanation behind two spaces or `#`.

    A number is right for every variable.
    """
    found = shlex.split(re.sub(r"\$\w+", "1", re.split(r"  |\)| #", command)[0]))[1:]
    return found[: next((number for number, word in enumerate(found) if word in SHELL), len(found))]


def is_taken(arguments: list[str], *, whole: bool) -> bool:
    if arguments[0] in ("bench", "long"):
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


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_the_program_takes_every_documented_command(page: Path) -> None:
    """A line of an indented block stands there to be copied, so it is taken as a whole."""
    for line in page.read_text().splitlines():
        is_block = line.startswith("    ")
        for text in [line.strip()] if is_block else re.findall(r"`([^`]+)`", line):
            for command in COMMAND.findall(text):
                assert is_taken(words(command), whole=is_block), command
