"""Reads test reports: `parse_report` gives cases, suites and a summary of any JUnit, Testhide, NUnit, xUnit
or TRX file, however broken.
"""

from commands.reports.parser.case import Case, Counts, Declared, ReportWarning, Suite, Summary
from commands.reports.parser.limits import Limits
from commands.reports.parser.parse import parse_report
from commands.reports.parser.signature import signature

__all__ = [
    "Case",
    "Counts",
    "Declared",
    "Limits",
    "ReportWarning",
    "Suite",
    "Summary",
    "parse_report",
    "signature",
]
