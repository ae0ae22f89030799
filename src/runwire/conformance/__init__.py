from runwire.conformance.case import BUDGET
from runwire.conformance.check import Options, check, wanted_cases
from runwire.conformance.registry import CATEGORIES
from runwire.conformance.report import Evidence, Report, Result, as_json
from runwire.conformance.shown import FORMATS, as_html, as_junit, as_markdown, as_text
from runwire.conformance.wire import Closed, CouldNotCheck, Silence, Wire, WireHttp

__all__ = [
    "BUDGET",
    "CATEGORIES",
    "FORMATS",
    "Closed",
    "CouldNotCheck",
    "Evidence",
    "Options",
    "Report",
    "Result",
    "Silence",
    "Wire",
    "WireHttp",
    "as_html",
    "as_json",
    "as_junit",
    "as_markdown",
    "as_text",
    "check",
    "wanted_cases",
]
