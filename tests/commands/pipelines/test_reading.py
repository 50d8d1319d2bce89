"""Reading `.testhide.yml`: what it means, and which mistakes are reported where."""

from textwrap import dedent
from time import thread_time

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from commands.pipelines.converting import MAX_FAULTS
from commands.pipelines.file import MAX_JOBS, FileJob, FileTemplate, PipelineFile
from commands.pipelines.reading import HINTS, read_pipelines
from commands.pipelines.yaml_nodes import MAX_BYTES, InvalidFile
from domain.matrix import Matrix

WHOLE = """\
templates:
  python:
    setup:
      - pip install -e .
    env: {PYTHON: 3.10, COUNTRY: no}
jobs:
  unit tests:
    template: python
    command: |
      pytest -q
    secrets: [TOKEN]
    artifacts: ["out/*.xml"]
    pool: linux
    required_tags: [x86]
    timeout_minutes: 30
    max_parallel: 2
    default_branch: trunk
    quarantine_mode: skip
    matrix:
      axes: {version: [3.10, 3.11], os: [linux]}
      exclude: [{version: 3.10}]
      include: [{os: mac}]
"""


def faults(text: str | bytes) -> list[str]:
    content = text if isinstance(text, bytes) else dedent(text).encode()
    with pytest.raises(InvalidFile) as refused:
        read_pipelines(content)
    return [str(fault) for fault in refused.value.faults]


def job_faults(*lines: str) -> list[str]:
    return faults("jobs:\n  unit:\n" + "".join(f"    {line}\n" for line in lines))


def test_mistakes_in_a_matrix_have_a_position() -> None:
    axes = "axes: {python-version: [3.12], os: [linux]}"
    assert job_faults("command: x", "matrix:", f"  {axes}", "  exclude: [{os: mac}]") == [
        "6:22: matrix.exclude[0].os mac is no value of axes.os"
    ]
    assert job_faults("command: x", "env: {OS: x}", f"matrix: {{{axes}}}") == [
        "5:49: matrix.axes.os is the variable OS, which the job also has in env or secrets"
    ]
    assert job_faults("command: x", "matrix: {os: [linux]}") == [
        "4:14: `os` is not known here; known here: axes, include, exclude"
    ]
    assert job_faults("command: x", "matrix: {axes: {a: []}}") == ["4:24: `a` must not be empty"]
    assert "list values by `matrix`" in job_faults("command: x", "strategy: {}")[0]


def test_what_jobs_need_must_be_other_jobs_of_the_file() -> None:
    jobs = "jobs:\n  lint: {{command: x}}\n  deploy:\n    command: x\n    needs: [{}]\n"
    assert read_pipelines(jobs.format("lint").encode()).file.jobs["deploy"].needs == ["lint"]
    assert faults(jobs.format("lin, deploy, lint, lint")) == [
        "5:13: needs[0] lin is not among the `jobs` of the file; did you mean `lint`?",
        "5:18: needs[1] is the job itself",
        "5:32: needs[3] is given twice",
    ]
    assert job_faults("command: x", "after: [lint]") == [
        "4:5: `after` is not known here: name the jobs that must have passed before by `needs`"
    ]
    circle = "jobs:\n  a: {command: x, needs: [b]}\n  b: {command: x, needs: [c]}\n  c: {command: x, needs: [a]}\n"
    assert faults(circle) == ["2:26: needs is a circle: a needs b needs c needs a"]


def test_the_search_for_mistakes_ends_at_fifty() -> None:
    """Long names that are nearly those of templates, and keys that are nearly known, by thousands."""
    names = [f"{'ab' * 90}{number:03}" for number in range(MAX_JOBS)]
    templates = "".join(f"  {name}: {{}}\n" for name in names)
    jobs = "".join(f"  {name}: {{template: {name[1:]}}}\n" for name in names)
    begin = thread_time()
    assert len(faults(f"templates:\n{templates}jobs:\n{jobs}")) == MAX_FAULTS
    assert len(job_faults("command: x", *(f"comman{number}: x" for number in range(10_000)))) == MAX_FAULTS
    assert thread_time() - begin < 2


def test_a_file_is_read_with_all_its_parts() -> None:
    python = FileTemplate(setup=["pip install -e ."], env={"PYTHON": "3.10", "COUNTRY": "no"})
    unit = FileJob(
        template="python",
        command="pytest -q\n",
        secrets=["TOKEN"],
        artifacts=["out/*.xml"],
        pool="linux",
        required_tags=["x86"],
        timeout_minutes=30,
        max_parallel=2,
        default_branch="trunk",
        quarantine_mode="skip",
        matrix=Matrix({"version": ["3.10", "3.11"], "os": ["linux"]}, [{"os": "mac"}], [{"version": "3.10"}]),
    )
    assert read_pipelines(WHOLE.encode()).file == PipelineFile({"unit tests": unit}, {"python": python})


@pytest.mark.parametrize(
    "text", ["3.10", "no", "on", "0x1F", "1e3", "010", "2026-01-01", "true", "12:30:45", "=", "1_000"]
)
def test_a_variable_is_the_text_that_is_written(text: str) -> None:
    file = read_pipelines(f"jobs: {{unit: {{command: x, env: {{NAME: {text}}}}}}}".encode()).file
    assert file.jobs["unit"].env == {"NAME": text}


def test_all_mistakes_are_reported_with_their_positions() -> None:
    assert job_faults(
        "comand: pytest", "timeout_minutes: 0", "setup: make", "env:", "  NAME:", "max_parallel: many"
    ) == [
        "3:5: `comand` is not known here; did you mean `command`?",
        "4:22: `timeout_minutes` must be a whole number from 1 to 10,080",
        "5:12: `setup` must be a list: begin each entry with `- `, or write [one, two]",
        '7:12: `NAME` has no value: write "" for an empty text',
        "8:19: `max_parallel` must be a whole number from 1 to 1,000",
    ]


def test_a_mistake_hides_no_other_in_the_rest_of_the_file() -> None:
    file = """\
        templates:
          python: {setup: make, env: {A-B: x}}
        jobs:
          unit:
            template: python
            comand: pytest
            artifacts: [ok, ../x]
            env: {A-B: {}}
            secrets: [C-D]
          package: pytest
          deploy: {command: x, needs: [package, unt], pool: a, pool_labels: {os: linux}, triggers: {tag: y}}
    """
    assert faults(file) == [
        "2:19: `setup` must be a list: begin each entry with `- `, or write [one, two]",
        "2:36: env.A-B is no name of a variable: letters, digits and _, not first a digit",
        "6:5: `comand` is not known here; did you mean `command`?",
        "7:21: artifacts[1] must be a path inside the workspace: not absolute, without `..`",
        "8:16: `A-B` must be a text, not a mapping",
        "8:16: env.A-B is no name of a variable: letters, digits and _, not first a digit",
        "9:14: secrets.C-D is no name of a variable: letters, digits and _, not first a digit",
        "10:12: `package` must be a mapping: one `key: value` in each line",
        "11:41: needs[1] unt is not among the `jobs` of the file; did you mean `unit`?",
        "11:69: pool_labels are instead of `pool`: leave one of them out",
        "11:93: `tag` is not known here; did you mean `tags`?",
    ]


def test_a_mistake_hides_no_other_in_its_job() -> None:
    lines = """\
        timeout_minutes: 0
        template: [x]
        needs: [{}, gone]
        artifacts: [../x, "", ok, ../y]
        caches:
          - {key: "{{ now }}", paths: [/etc, ../x]}
          - {key: "", paths: [x]}
          - {key: pip, paths: ["", ~/../x]}
        checkout: {depth: all, tags: maybe}
        matrix:
          axes: {TESTHIDE: [1], os: [""], ok: [1]}
          exclude: [{os: mac}]
        triggers:
          branch: main
          branches: [[], /main, "!x"]
          tags: v1
          paths: [src, /src]
          cron:
            - {expression: 0 3 * * 1-5 *, timezone: Mars/Olympus}
            - {timezone: UTC}
            - {expression: 60 3 * * *}
    """
    slash = "must not begin with /: names of branches and tags, and paths within the repository, do not"
    assert job_faults("shell: zsh", *dedent(lines).splitlines()) == [
        "3:12: `shell` must be one of bash, sh",
        "4:22: `timeout_minutes` must be a whole number from 1 to 10,080",
        "5:15: `template` must be a text, not a list",
        "6:13: an entry of `needs` must be a text, not a mapping",
        "6:17: needs[1] gone is not among the `jobs` of the file; known here: unit",
        "7:17: artifacts[0] must be a path inside the workspace: not absolute, without `..`",
        "7:23: an entry of `artifacts` must not be empty",
        "7:31: artifacts[3] must be a path inside the workspace: not absolute, without `..`",
        '9:15: caches[0].key must be text of one line; of parts in {{ }} there is one: {{ checksum "FILE" }}',
        "9:36: caches[0].paths[0] must be a path inside the workspace, or after `~/`: not absolute, without `..`",
        "9:42: caches[0].paths[1] must be a path inside the workspace, or after `~/`: not absolute, without `..`",
        "10:15: `key` must not be empty",
        "11:28: an entry of `paths` must not be empty",
        "11:32: caches[2].paths[1] must be a path inside the workspace, or after `~/`: not absolute, without `..`",
        "12:23: `depth` must be a whole number from 0 to 1,000,000",
        "12:34: `tags` must be true or false",
        "14:24: matrix.axes.TESTHIDE would be the variable TESTHIDE: those that begin with TESTHIDE are the agent's",
        "14:34: an entry of `os` must not be empty",
        "17:7: `branch` is not known here; did you mean `branches`?",
        "18:18: an entry of `branches` must be a text, not a list",
        f"18:22: branches[1] {slash}",
        "19:13: `tags` must be a list: begin each entry with `- `, or write [one, two]",
        f"20:20: paths[1] {slash}",
        "22:24: cron[0].expression must have 5 fields, such as 30 3 * * 1-5: minute, hour, day, month, day of week",
        "22:49: cron[0].timezone is not known: give a name of the IANA database, such as Europe/Berlin or UTC",
        "23:11: an entry of `cron` needs `expression:`",
        "24:24: cron[2].expression is no cron expression: its minute is wrong; 30 3 * * 1-5 is one",
    ]


def test_a_job_without_a_command_is_named_with_its_other_mistakes() -> None:
    assert job_faults("timeout_minutes: 0", "env: {A-B: x}") == [
        "3:5: unit needs `command:`",
        "3:22: `timeout_minutes` must be a whole number from 1 to 10,080",
        "4:16: env.A-B is no name of a variable: letters, digits and _, not first a digit",
    ]


@pytest.mark.parametrize(
    "lines",
    [
        ["triggers: {branches: main, paths: [src]}"],
        ['triggers: {branches: [[], "!x"]}'],
        ['matrix: {axes: {os: [""], x: [1]}, exclude: [{os: mac}]}'],
        ["matrix: {axes: [], exclude: [{os: mac}]}"],
    ],
)
def test_a_mistake_causes_no_other(lines: list[str]) -> None:
    assert len(job_faults("command: x", *lines)) == 1


@pytest.mark.parametrize(
    ("lines", "expected"),
    [
        (["env: {A-B: x}"], "4:16: env.A-B is no name of a variable"),
        (["artifacts: [ok, ../x]"], "4:21: artifacts[1] must be a path inside the workspace"),
        (["env: {TESTHIDE_BUILD_ID: 1}"], "4:30: env.TESTHIDE_BUILD_ID is set by the agent"),
        (["env: {A: x}", "secrets: [A]"], "5:14: secrets A is also in `env`"),
        (["pool: linux", "pool_labels: {os: linux}"], "5:18: pool_labels are instead of `pool`: leave one of them out"),
        (["template: fast"], "4:15: template fast is not among the `templates` of the file"),
        (["secrets: {TOKEN: s3cret}"], "4:14: `secrets` must be a list"),
        (["triggers: {branches: [main], cron: [{expression: 0 3 * * 1-5 *}]}"], "4:54: cron[0].expression must"),
        (["triggers: {branches: [/main]}"], "4:27: branches[0] must not begin with /"),
        (["triggers: {branch: main}"], "4:16: `branch` is not known here; did you mean `branches`?"),
        (["triggers: {pull_requests: on}"], "4:31: `pull_requests` must be true or false: `on` is a text in YAML 1.2"),
        (["caches: [{key: pip, paths: [/etc]}]"], "4:33: caches[0].paths[0] must be a path inside the workspace"),
        (["checkout: {depth: all}"], "4:23: `depth` must be a whole number from 0 to 1,000,000"),
        (["shell: zsh"], "4:12: `shell` must be one of bash, sh"),
        (["quarantine_mode: no"], "4:22: `quarantine_mode` must be one of run, skip"),
        (["command: make"], "4:5: `command` is given twice, first in line 3"),
        (['pool: ""'], "4:11: `pool` must not be empty"),
    ],
)  # fmt: skip
def test_what_a_job_may_not_have(lines: list[str], expected: str) -> None:
    (fault,) = job_faults("command: pytest", *lines)
    assert fault.startswith(expected)


def test_a_job_needs_a_command_of_its_own_or_of_its_template() -> None:
    file = """\
        templates:
          setup: {setup: [make deps]}
          whole: {command: make test}
        jobs:
          one: {template: whole}
          two: {template: setup}
          three: {env: {}}
    """
    assert faults(file) == [
        "6:8: two needs `command:`, since its template has none",
        "7:10: three needs `command:`",
    ]


@pytest.mark.parametrize("key", sorted(HINTS))
def test_keys_of_other_systems_are_answered_with_what_to_write(key: str) -> None:
    (fault,) = job_faults("command: pytest", f"{key}: x")
    assert fault == f"4:5: `{key}` is not known here: {HINTS[key]}"


@pytest.mark.parametrize(
    ("content", "expected"),
    [
        (b"", "1:1: the file is empty: it needs `jobs:`"),
        (b"# nothing\n", "1:1: the file is empty: it needs `jobs:`"),
        (b"templates: {}", "1:1: the file needs `jobs:`"),
        (b"jobs: {}", "1:7: `jobs` must not be empty"),
        (b"- jobs", "1:1: the file must be a mapping: one `key: value` in each line"),
        (b"jobs: \xff", "1:7: the file must be text in UTF-8"),
        (b"jobs: \0", "1:7: the character U+0000 is not allowed in YAML"),
        (b'jobs: {a: {command: "\\0"}}', "1:21: the character U+0000 is not allowed in a text"),
        (b"jobs: {}\n---\njobs: {}", "2:1: the file must be one document: remove this `---` and what follows it"),
        (b"? [a]\n: b", "1:3: a key must be a text"),
        (b"#" * (MAX_BYTES + 1), "1:1: the file must have at most 1,048,576 bytes"),
        (b"jobs: " + b"[" * 60, "1:56: values are nested more than 50 deep"),
    ],
)
def test_what_is_no_file_of_pipelines(content: bytes, expected: str) -> None:
    assert faults(content) == [expected]


@pytest.mark.parametrize(
    ("text", "start"),
    [
        ("jobs: &all {}\nmore: *all", "1:7: anchors (&) and aliases (*) are not supported: share parts of jobs by"),
        ("jobs: *all", "1:7: anchors (&) and aliases (*) are not supported"),
        ("jobs: !!python/object:os.system {}", "1:7: tags such as `tag:yaml.org,2002:python/object:os.system` are not"),
        ("jobs:\n\tunit: {}", "2:1: this is not valid YAML: while scanning for the next token, found character that"),
        ("jobs: a: b", "1:8: this is not valid YAML: mapping values are not allowed in this context; put a text"),
        ("jobs: [" + "1," * 60_000 + "]", "1:100002: the file has more than 50,000 values"),
    ],
)
def test_yaml_that_is_dangerous_or_wrong_is_refused(text: str, start: str) -> None:
    (fault,) = faults(text)
    assert fault.startswith(start)


@settings(max_examples=60, deadline=None)
@given(st.text(alphabet=st.sampled_from("jobs:{}[]\"'&*!|>-? \n\tx#%@,~\0é")))
def test_no_text_is_read_as_pipelines_by_chance(text: str) -> None:
    with pytest.raises(InvalidFile) as refused:
        read_pipelines(text.encode())
    assert all(1 <= fault.line <= text.count("\n") + 2 and fault.column >= 1 for fault in refused.value.faults)
