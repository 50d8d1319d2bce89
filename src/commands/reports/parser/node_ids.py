"""Node ids: a test has the same id in every build, in the quarantine, in selections and in the history.

A node id contains nothing that differs between machines or runs: no absolute path, no time, and a suite name only if
there is nothing better. It follows the first of these rules that fits; `commands.reports.object_addresses` then leaves
out addresses of objects:

1. `nodeid`: the property of that name, verbatim.
       t/test_x.py::TestDeep::test_bad[a-1]
2. Python file: a relative `.py` file gives pytest's form. The parts of the class name after the module
   are classes. A collection error, whose name is the file, has the file as its id.
       file t/test_x.py, classname t.test_x.TestDeep, name test_bad -> t/test_x.py::TestDeep::test_bad
3. unittest: an absolute `.py` file, or a suite named `unittest...`.
       module.Class.method
4. pytest without a file: the suite is `pytest`, or a part of the class name looks like a test module. The
   module is the longest prefix whose last part looks like one (`test_*`, `*_test`), the rest are classes.
       classname t.test_x.TestDeep.TestInner, name test_bad -> t/test_x.py::TestDeep::TestInner::test_bad
       no classname, name t.test_x (a collection error) -> t/test_x.py
5. JavaScript: a relative script as file, or as the name of the suite or class: `file > describe > title`.
   Playwright runs a test once for each of its projects and names the project as the host.
       suite src/sum.test.js, classname sum › negatives, name adds -> src/sum.test.js > sum > negatives > adds
       host firefox, name logs in -> e2e/login.spec.ts > logs in [firefox]
6. Any other relative file: `file::classname::name`, without the class if it only repeats the file.
       spec/cart_spec.rb::Cart adds an item
       tests/parse.cc::ParseTest::Empty
7. Class and name: surefire, go, .NET, gtest. Only the name if it already begins with the class.
       com.acme.FooTest.bar    acme.test/pkg.TestName/sub    Acme.Tests.FooTest.Bar(x: 1)    FooTest.Bar/0
8. No class, or a class that repeats the name: `suite > name`; without a suite the name alone.
"""

import re
from functools import lru_cache

import msgspec

_ABSOLUTE = re.compile(r"[/\\~]|[A-Za-z]:[/\\]|[a-z][a-z0-9+]{1,12}://")
_SCRIPT = re.compile(r"\.(?:[cm]?[jt]sx?|vue|svelte|coffee|feature)$")
_TEST_MODULE = re.compile(r"test_\w+|\w+_test")
_TESTS_MODULE = re.compile(r"tests?")
_LEVELS = re.compile(r" [›>] ")


class Origin(msgspec.Struct, kw_only=True, frozen=True):
    """Where a case comes from: its suite, the file and the host of the suite, and what is known about the test
    runner.
    """

    suite: str = ""
    suite_file: str = ""
    hostname: str = ""
    pytest: bool = False
    playwright: bool = False
    may_have_bailed: bool = False
    """Whether this is a run of vitest with failures. Under --bail, vitest writes tests that did not run as passed."""
    runs_once: bool = False
    """Whether the runner writes each test once, so that two results with one name are two tests."""


NOWHERE = Origin()


def node_id(name: str, classname: str = "", file: str = "", nodeid: str = "", origin: Origin = NOWHERE) -> str:
    """Returns the node id by the first rule of this module that fits. The node id is empty only if all arguments are
    empty.
    """
    if nodeid:
        return nodeid
    relative = _relative(file)
    if relative.endswith(".py"):
        return _python(name, classname, relative)
    if file.endswith(".py") or origin.suite.startswith("unittest"):
        return _dotted(name, classname)
    if not relative and _is_pytest(name, classname, origin):
        return _pytest(name, classname, origin)
    if script := _script(relative, classname, origin):
        return _javascript(name, classname, script, origin)
    if relative:
        class_part = "" if _dotted_path(relative).startswith(classname) else classname
        return "::".join(part for part in (relative, class_part, name) if part)
    return _by_class(name, classname, origin)


def _relative(file: str) -> str:
    """Returns a relative path with `/` between its parts and without a leading `./`. Returns an empty text for an
    absolute path.
    """
    if not file or _ABSOLUTE.match(file):
        return ""
    return file.replace("\\", "/").removeprefix("./")


def _dotted_path(file: str) -> str:
    """Returns the path in the form in which reporters write a file as a class name: `t/test_x.py` -> `t.test_x`."""
    return file.rpartition(".")[0].replace("/", ".") if "." in file.rpartition("/")[2] else file.replace("/", ".")


def _dotted(name: str, classname: str) -> str:
    return f"{classname}.{name}" if classname else name


def _python(name: str, classname: str, file: str) -> str:
    module = _dotted_path(file)
    if name.replace("\\", "/") == file or (name == module and not classname):
        return file
    stem = module.rpartition(".")[2]
    if classname in (module, stem):
        classes = ""
    elif classname.startswith(module + "."):
        classes = classname[len(module) + 1 :]
    elif classname.startswith(stem + "."):
        classes = classname[len(stem) + 1 :]
    else:
        classes = classname
    return "::".join([file, *(part for part in classes.split(".") if part), name])


def _is_pytest(name: str, classname: str, origin: Origin) -> bool:
    if origin.pytest:
        return True
    if "/" in classname or not name.startswith("test"):
        return False
    return any(_TEST_MODULE.fullmatch(part) for part in classname.split("."))


def _pytest(name: str, classname: str, origin: Origin) -> str:
    if not classname:
        return _module_path(name.split(".")) if re.fullmatch(r"[\w.]+", name) else name
    return f"{_pytest_file(classname)}::{name}"


@lru_cache(1_000)
def _pytest_file(classname: str) -> str:
    """Returns the beginning that the node ids of all tests of a class share: the file, and the classes in it."""
    parts = classname.split(".")
    end = _last(parts, _TEST_MODULE) or _last(parts, _TESTS_MODULE)
    if not end:
        # The project names its test files in another way. So the classes begin at the first capitalised part.
        end = len(parts)
        while end > 1 and parts[end - 1][:1].isupper():
            end -= 1
    return "::".join([_module_path(parts[:end]), *parts[end:]])


def _last(parts: list[str], pattern: re.Pattern[str]) -> int:
    return max((index for index, part in enumerate(parts, 1) if pattern.fullmatch(part)), default=0)


def _module_path(parts: list[str]) -> str:
    return "/".join(parts) + ".py"


def _script(file: str, classname: str, origin: Origin) -> str:
    for candidate in (file, _relative(origin.suite_file), _relative(origin.suite), _relative(classname)):
        if candidate and _SCRIPT.search(candidate) and " " not in candidate.rpartition("/")[2]:
            return candidate
    return ""


def _javascript(name: str, classname: str, script: str, origin: Origin) -> str:
    levels = _LEVELS.split(classname) if classname else []
    if _relative(classname) == script or name == classname or name.endswith(" " + classname):
        levels = []  # the class says nothing that the file or the name does not say
    parts = [script, *levels, *_LEVELS.split(name)]
    if name == script and levels:
        parts.pop()
    path = " > ".join(part for part in parts if part)
    return f"{path} [{origin.hostname}]" if origin.playwright and origin.hostname else path


def _by_class(name: str, classname: str, origin: Origin) -> str:
    if not classname or classname == name:
        return f"{origin.suite} > {name}" if origin.suite and origin.suite != name else name
    if name.startswith(classname + "."):
        return name
    return f"{classname}.{name}"
