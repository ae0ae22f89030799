from runwire.conformance.check import CATEGORIES, check
from runwire.conformance.report import Evidence, Report, Result, as_json, as_markdown, as_text
from runwire.conformance.wire import Closed, CouldNotCheck, Silence, Wire, WireHttp

__all__ = [
    "CATEGORIES",
    "Closed",
    "CouldNotCheck",
    "Evidence",
    "Report",
    "Result",
    "Silence",
    "Wire",
    "WireHttp",
    "as_json",
    "as_markdown",
    "as_text",
    "check",
]
