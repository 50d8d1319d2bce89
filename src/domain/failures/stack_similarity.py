"""Similarity of stack traces, and groups of failures that probably have one cause.

The similarity is TraceSim (Vasiliev, Koznov, Chernishev, Khvorov, Luciv, Povarov: "TraceSim: A Method for Calculating
Stack Trace Similarity", MaLTeSQuE 2020): an edit distance of the frames, in which a frame weighs more the nearer it is
to the failure, and the fewer of the compared traces contain it. Frames that all traces contain, such as
those of a test runner, weigh little.
"""

import math
from collections import Counter
from collections.abc import Sequence
from typing import NamedTuple

MAX_FRAMES = 20
"""Largest number of frames of a trace that are compared, the innermost ones."""
MAX_TRACES = 60
"""Largest number of different traces that are compared with each other. 60 traces of 20 frames take about 0.3 s."""
POSITION_EXPONENT = 0.5
"""How fast the weight of a frame falls with its distance from the failure: the n-th frame, counted from 1 for the
innermost one, weighs n to the power of -POSITION_EXPONENT.
"""
SAME_CAUSE = 0.7
"""Least similarity with which two traces count as having the same cause."""


class Trace(NamedTuple):
    kind: str
    """Kind of the failure, such as the type of the exception. Traces of different kinds never have the same cause."""
    frames: tuple[str, ...]
    """Names of functions, the innermost first."""


def weigh(frames: Sequence[str], containing: Counter[str], traces: int) -> list[float]:
    """Returns the weight of each frame. `containing` says how many of all `traces` contain a frame."""
    return [
        (position + 1) ** -POSITION_EXPONENT * math.log(1 + traces / max(1, containing[frame]))
        for position, frame in enumerate(frames)
    ]


def compare(left: Sequence[str], right: Sequence[str], containing: Counter[str], traces: int) -> float:
    """Returns the similarity of two traces: 1 for equal frames, 0 for no frame in common."""
    left_weights, right_weights = weigh(left, containing, traces), weigh(right, containing, traces)
    total = sum(left_weights) + sum(right_weights)
    if not total:
        return 0.0
    costs = [0.0]
    for weight in right_weights:
        costs.append(costs[-1] + weight)
    for frame, weight in zip(left, left_weights, strict=True):
        diagonal, costs[0] = costs[0], costs[0] + weight
        for column, (other, other_weight) in enumerate(zip(right, right_weights, strict=True), 1):
            replaced = diagonal + (abs(weight - other_weight) if frame == other else weight + other_weight)
            diagonal = costs[column]
            costs[column] = min(replaced, costs[column] + weight, costs[column - 1] + other_weight)
    return max(0.0, 1 - costs[-1] / total)


def group(traces: Sequence[Trace]) -> list[int]:
    """Returns the number of each trace's group. Two traces belong to one group if they are equal, or if a chain of
    traces, each similar to the next, connects them. Compares only the MAX_TRACES most frequent traces.
    """
    counts = Counter(Trace(trace.kind, trace.frames[:MAX_FRAMES]) for trace in traces)
    compared = [trace for trace, _ in counts.most_common(MAX_TRACES)]
    containing = Counter(frame for trace in compared for frame in set(trace.frames))
    groups = {trace: number for number, trace in enumerate(counts)}
    for index, left in enumerate(compared):
        for right in compared[:index]:
            if groups[left] == groups[right] or left.kind != right.kind or not (left.frames and right.frames):
                continue
            if compare(left.frames, right.frames, containing, len(compared)) >= SAME_CAUSE:
                kept, merged = sorted((groups[left], groups[right]))
                groups = {trace: kept if number == merged else number for trace, number in groups.items()}
    return [groups[Trace(trace.kind, trace.frames[:MAX_FRAMES])] for trace in traces]
