"""Names of tests that contain the address of an object, such as `test_x[<function f at 0x7f3a5c1d2e50>]`.

The address differs from one process to the next, so each build would have new test cases. It is left out of the node
id: `test_x[<function f at 0x...>]`. If several tests of a suite then have equal node ids, they are numbered in the
order of the report: `test_x[<function f at 0x...>] #2`.
"""

import re
from dataclasses import dataclass, field

import msgspec

from commands.reports.parser import Case

REPORTED_NAME = "reported_name"
"""Name of a property of failed results. Its value is the node id with the address, as the report contains it."""

_ADDRESS = re.compile(
    r"(?<= at )0x[0-9A-Fa-f]{6,16}(?=[^<>]{0,200}>)"  # Python: <function f at 0x7f3a5c1d2e50>
    r"|(?<= id=')\d{6,20}(?='>)"  # Python: <MagicMock name='f' id='140234567890123'>
    r"|(?<=[\w$;\]]@)(?=[a-f]{0,7}\d)[0-9a-f]{6,8}(?![\w.])"  # Java: com.acme.Cart@1b28cdfa
)


def mask_addresses(node_id: str) -> str:
    """Returns the node id with dots in place of the addresses of objects."""
    if "0x" not in node_id and "@" not in node_id and " id='" not in node_id:
        return node_id
    return _ADDRESS.sub(lambda match: "0x..." if match[0].startswith("0x") else "...", node_id)


@dataclass
class _SuiteNames:
    names: dict[str, str] = field(default_factory=dict)
    """Node id in the report -> node id without addresses."""
    numbers: dict[str, int] = field(default_factory=dict)
    """Node id without addresses -> number of tests so far with this node id. The second test gets `#2` at its end."""
    taken: set[str] = field(default_factory=set)

    def find(self, node_id: str, masked: str) -> str:
        if node_id not in self.names:
            number = self.numbers.get(masked, 0) + 1
            while (name := masked if number == 1 else f"{masked} #{number}") in self.taken:
                number += 1
            self.numbers[masked] = number
            self.taken.add(name)
            self.names[node_id] = name
        return self.names[node_id]


class StableNames:
    """Gives tests of a report node ids without addresses of objects."""

    def __init__(self) -> None:
        self._suites: dict[str, _SuiteNames] = {}
        """Name of an open suite -> names of its tests."""

    def rename(self, case: Case) -> Case:
        """Returns the case. If its node id contains an address, the case gets a node id that no other test of its suite
        has.
        """
        masked = mask_addresses(case.node_id)
        if masked == case.node_id:
            return case
        name = self._suites.setdefault(case.suite, _SuiteNames()).find(case.node_id, masked)
        properties = case.properties
        if case.status == "failed":
            properties = (*properties, (REPORTED_NAME, case.node_id))
        return msgspec.structs.replace(case, node_id=name, properties=properties)

    def end_suite(self, name: str) -> None:
        """Forgets the tests of a suite, so that a later suite with this name begins anew."""
        self._suites.pop(name, None)
