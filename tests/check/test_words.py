"""The words: identifiers use the field's terms, and prose names modules and files that exist.

docs/glossary.md is the source: its last table lists the identifiers that the code does not use.
"""

import ast
import io
import re
import tokenize
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SRC = ROOT / "src"
ROOMS = sorted(folder.name for folder in SRC.iterdir() if (folder / "__init__.py").exists())
PYTHON = [path for folder in ("src", "tests", "bench") for path in sorted((ROOT / folder).rglob("*.py"))]
API_FIELDS = {"src/projections/rebuild/status.py": {"place"}, "tests/projections/test_switch.py": {"place"}}
"""Names that clients read in answers stay, by file."""
DOCS = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]


def avoided_identifiers() -> dict[str, str]:
    """Maps each identifier that the glossary rules out to the term that it names instead."""
    _, _, table = (ROOT / "docs" / "glossary.md").read_text().partition("## Words that the code avoids")
    rows = re.findall(r"^\| (`.+?) \| (.+?) \|$", table, re.MULTILINE)
    return {name: instead for names, instead in rows for name in re.findall(r"`(\w+)`", names)}


def names_in(path: Path) -> Iterator[tuple[str, int]]:
    for token in tokenize.generate_tokens(io.StringIO(path.read_text()).readline):
        if token.type == tokenize.NAME:
            yield token.string, token.start[0]


def test_identifiers_use_the_terms_of_the_glossary() -> None:
    avoided = avoided_identifiers()
    assert len(avoided) > 50
    found = [
        f"{path.relative_to(ROOT)}:{line}: {name}, better {avoided[name.strip('_')]}"
        for path in PYTHON
        for name, line in names_in(path)
        if name.strip("_") in avoided and name not in API_FIELDS.get(str(path.relative_to(ROOT)), ())
    ]
    assert found == []


def test_class_names_are_unique() -> None:
    """Two classes of one name make every search ambiguous, and the API's schemas are named by their classes."""
    classes = Counter(
        node.name
        for path in SRC.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.ClassDef)
    )
    assert {name for name, count in classes.items() if count > 1} == set()


def test_prose_names_modules_that_exist() -> None:
    """Prose names a module as `room.module` or `room.module.Name`, or a file as `src/room/module.py`."""
    mention = re.compile(rf"`((?:{'|'.join(ROOMS)})(?:\.\w+)+)`")
    folders = "|".join(
        sorted({path.relative_to(ROOT).parts[1] for path in PYTHON if len(path.relative_to(ROOT).parts) > 2})
    )
    file = re.compile(rf"(?<![\w/.])((?:(?:src|tests|bench)/(?:{folders})|docs)/[\w/.-]+\.(?:py|md|json|js))\b")
    stale = []
    for path in [*PYTHON, *DOCS]:
        text = path.read_text()
        stale += [f"{path.relative_to(ROOT)}: {name}" for name in mention.findall(text) if not module_exists(name)]
        stale += [f"{path.relative_to(ROOT)}: {name}" for name in file.findall(text) if not (ROOT / name).exists()]
    assert stale == []


def module_exists(name: str) -> bool:
    """Whether a dotted name is a module of src, or a top-level name (and attribute) of one."""
    parts = name.split(".")
    for length in range(len(parts), 0, -1):
        path = SRC.joinpath(*parts[:length])
        if path.with_suffix(".py").exists():
            rest = parts[length:]
            return not rest or re.search(rf"\b{rest[0]}\b", path.with_suffix(".py").read_text()) is not None
        if path.is_dir():
            return length == len(parts)
    return False


def test_modules_and_classes_begin_their_docstring_with_a_subject() -> None:
    """A docstring is one complete thought: it begins with a noun or a verb."""
    dangling = re.compile(r"(?:What|Of|As|The same|Who|Whoever|Whatever|That|So|Within it|Until|With|Without|From) ")
    found = [
        f"{path.relative_to(ROOT)}: {docstring.splitlines()[0]}"
        for path in SRC.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text()))
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
        if (docstring := ast.get_docstring(node)) and dangling.match(docstring)
    ]
    assert found == []
