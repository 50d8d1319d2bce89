"""Measures how well lines of logs are grouped by their templates, beside Drain.

The data is LogHub's (Zhu, He, He, Liu, Lyu: "Loghub", ISSRE 2023): 2,000 lines of each of some systems, with the true
template of each line. Grouping accuracy (Zhu et al.: "Tools and Benchmarks for Automated Log Parsing", ICSE-SEIP 2019)
is the share of lines whose group has exactly the lines of the true group. There is one setting for all systems. Drain
is `drain3-improved`, with its default settings, once without masks and once with those of its documentation.
"""

import csv
import gzip
import random
import time
from collections import defaultdict
from collections.abc import Callable, Hashable, Iterator, Sequence
from pathlib import Path
from typing import NamedTuple

from drain3 import TemplateMiner as Drain
from drain3.masking import MaskingInstruction
from drain3.template_miner_config import TemplateMinerConfig

from bench.support.report import Report
from domain.failures.log_templates import TemplateMiner
from domain.failures.message_masks import mask
from domain.failures.stack_similarity import MAX_TRACES

FOLDER = "log-templates"
SAMPLE, SAMPLES = MAX_TRACES, 20
"""Number of lines of a sample, and of samples of each system."""
DRAIN_MASKS = (
    (r"((?<=[^A-Za-z0-9])|^)(([0-9a-f]{2,}:){3,}([0-9a-f]{2,}))((?=[^A-Za-z0-9])|$)", "ID"),
    (r"((?<=[^A-Za-z0-9])|^)(\d{1,3}\.\d{1,3}\.\d{1,3}\.\d{1,3})((?=[^A-Za-z0-9])|$)", "IP"),
    (r"((?<=[^A-Za-z0-9])|^)([0-9a-f]{6,} ?){3,}((?=[^A-Za-z0-9])|$)", "SEQ"),
    (r"((?<=[^A-Za-z0-9])|^)([0-9A-F]{4} ?){4,}((?=[^A-Za-z0-9])|$)", "SEQ"),
    (r"((?<=[^A-Za-z0-9])|^)(0x[a-f0-9A-F]+)((?=[^A-Za-z0-9])|$)", "HEX"),
    (r"((?<=[^A-Za-z0-9])|^)([\-\+]?\d+)((?=[^A-Za-z0-9])|$)", "NUM"),
)
"""The masks of the example in Drain3's documentation, without the one for commands of one program."""

Groups = list[Hashable]
"""Group of each line."""


class System(NamedTuple):
    name: str
    lines: list[str]
    templates: list[str]
    """Id of the true template of each line."""


def read_systems(folder: Path) -> Iterator[System]:
    for path in sorted(folder.glob("*/*_structured.csv.gz")):
        with gzip.open(path, "rt", encoding="utf-8", newline="") as file:
            rows = list(csv.DictReader(file))
        yield System(path.parent.name, [row["Content"] for row in rows], [row["EventId"] for row in rows])


def measure_accuracy(groups: Sequence[Hashable], templates: Sequence[str]) -> float:
    found, true = defaultdict[Hashable, set[int]](set), defaultdict[str, set[int]](set)
    for number, (group, template) in enumerate(zip(groups, templates, strict=True)):
        found[group].add(number)
        true[template].add(number)
    exact = {frozenset(lines) for lines in true.values()}
    return sum(len(lines) for lines in found.values() if frozenset(lines) in exact) / len(templates)


def group(lines: list[str]) -> Groups:
    miner = TemplateMiner()
    matches = [miner.add(line) for line in lines]
    return [(match.family, miner.template(match)) for match in matches]


def group_by_drain(lines: list[str], masks: Sequence[tuple[str, str]]) -> Groups:
    config = TemplateMinerConfig()
    config.masking_instructions = [MaskingInstruction(pattern, name) for pattern, name in masks]
    miner = Drain(config=config)
    return [miner.add_log_message(line)["cluster_id"] for line in lines]


def group_by_masks(lines: list[str]) -> Groups:
    return [mask(line) for line in lines]


def measure_samples(systems: Sequence[System], rule: Callable[[list[str]], Groups]) -> float:
    """Returns the mean grouping accuracy of samples of lines, each as large as the messages of a build that are
    compared.
    """
    accuracies: list[float] = []
    for system in systems:
        for seed in range(SAMPLES):
            chosen = random.Random(seed).sample(range(len(system.lines)), SAMPLE)
            groups = rule([system.lines[number] for number in chosen])
            accuracies.append(measure_accuracy(groups, [system.templates[number] for number in chosen]))
    return sum(accuracies) / len(accuracies)


def run(report: Report, data: Path) -> None:
    systems = list(read_systems(data / FOLDER))
    rules: dict[str, Callable[[list[str]], Groups]] = {
        "Drain without masks": lambda lines: group_by_drain(lines, ()),
        "Drain with masks": lambda lines: group_by_drain(lines, DRAIN_MASKS),
    }
    for name, rule in rules.items():
        accuracies = [measure_accuracy(rule(system.lines), system.templates) for system in systems]
        report.add(f"templates: {name}: grouping accuracy, mean", sum(accuracies) / len(accuracies))
    begun = time.process_time()
    grouped = [group(system.lines) for system in systems]
    spent = time.process_time() - begun
    accuracies = [measure_accuracy(groups, system.templates) for groups, system in zip(grouped, systems, strict=True)]
    for system, accuracy in zip(systems, accuracies, strict=True):
        report.add(f"templates: grouping accuracy, {system.name}", accuracy)
    report.add("templates: grouping accuracy, mean", sum(accuracies) / len(accuracies), at_least=0.9)
    for name, rule in {"masks of signatures": group_by_masks, "templates": group}.items():
        accuracy = measure_samples(systems, rule)
        report.add(f"templates: {SAMPLE} lines as messages of failures, by {name}: grouping accuracy", accuracy)
    report.add("templates: time for each line", spent / sum(len(system.lines) for system in systems) * 1e6, "µs")
