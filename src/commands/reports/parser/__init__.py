"""Reads test reports: `parse_report` yields the cases, the suites and a summary of any JUnit, Testhide, NUnit, xUnit or
TRX file, even a broken one.
"""

from commands.reports.parser.building import NO_NAME
from commands.reports.parser.case import Case, Suite, Summary
from commands.reports.parser.junit import XDIST_WORKER
from commands.reports.parser.limits import Limits
from commands.reports.parser.parse import parse_report

__all__ = ["NO_NAME", "XDIST_WORKER", "Case", "Limits", "Suite", "Summary", "parse_report"]
