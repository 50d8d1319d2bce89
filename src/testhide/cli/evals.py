"""`testhide evals`: runs evaluations without a server, for example in a CI job."""

from pathlib import Path
from typing import Annotated

import msgspec
from cyclopts import App, Parameter
from cyclopts.validators import Number

from commands.evaluation.cases import load_cases, select_cases
from domain.evals import Comparison, EvalReport, GradedCase, SuiteChoice, compare, compute_score
from domain.language_model import BUILTIN
from testhide.cli.printing import printable
from testhide.operator_errors import Fault

app = App(name="evals", help="Grade the answers to cases whose right answers are known.")


@app.command
def run(
    suite: SuiteChoice = "full",
    *,
    sample_size: Annotated[
        int | None, Parameter(validator=Number(gte=1), help="Number of cases to run; all by default.")
    ] = None,
    against: Annotated[Path | None, Parameter(help="Result of an earlier run to compare with.")] = None,
    json: Annotated[Path | None, Parameter(help="File to write the result to.")] = None,
) -> int:
    """Run the cases of a suite against the rules of the server, and print the cases that fail. Ends with 1 if a case
    fails that passed in the result given by --against, and with 2 if a file cannot be read or written.

    Parameters
    ----------
    suite
        diagnosis, chat, health, or full for all.
    """
    baseline = None if against is None else _read(against)
    cases = load_cases()
    graded = []
    for name in select_cases(cases, suite, sample_size):
        expected, got, faults = cases[name].grade()
        graded.append(GradedCase(name, not faults, expected, got, faults))
        if faults:
            print(printable(f"failed: {name}: {' '.join(faults)}"))
    passed = sum(one.passed for one in graded)
    print(f"{passed} of {len(graded)} cases passed, score {compute_score(passed, len(graded)):.2f}")
    held_out = [one.passed for one in graded if cases[one.case].split == "report"]
    print(f"{sum(held_out)} of the {len(held_out)} cases that are held out passed")
    if json is not None:
        result = EvalReport(suite, BUILTIN, compute_score(passed, len(graded)), tuple(graded))
        _write(json, result)
    return 0 if baseline is None else _show(compare(baseline.cases, graded))


def _read(path: Path) -> EvalReport:
    try:
        return msgspec.json.decode(path.read_bytes(), type=EvalReport)
    except OSError as error:
        raise Fault(f"{path} cannot be read: {error.strerror}", 2) from None
    except msgspec.DecodeError as error:
        raise Fault(f"{path} is not the result of an evaluation: {error}", 2) from None


def _write(path: Path, result: EvalReport) -> None:
    try:
        path.write_bytes(msgspec.json.format(msgspec.json.encode(result), indent=1) + b"\n")
    except OSError as error:
        raise Fault(f"{path} cannot be written: {error.strerror}", 2) from None


def _show(found: Comparison) -> int:
    print(
        f"{found.cases_compared} cases compared: {len(found.regressions)} regressions,"
        f" {len(found.improvements)} improvements"
    )
    for change in found.regressions:
        print(printable(f"regression: {change.case}"))
    return 1 if found.regressions else 0
