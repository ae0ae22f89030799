"""What ran, as a file: JSON, JUnit, Markdown or HTML, by the name's ending."""

from __future__ import annotations

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from types import MappingProxyType
from typing import Any, Final
from xml.etree import ElementTree

__all__ = ["parted", "refused", "write"]

# What XML 1.0 §2.2 has no place for.
_NOT_XML: Final = re.compile("[^\t\n\r\u0020-\ud7ff\ue000-\ufffd\U00010000-\U0010ffff]")


def refused(path: Path) -> str | None:
    """Return a sentence that says why no report can be written there; None: it can."""
    if path.suffix not in _WRITERS:
        return f"What kind of report is {path}? Name it {', '.join(f'….{end[1:]}' for end in _WRITERS)}."
    if not path.absolute().parent.is_dir():
        return f"The report {path} cannot be written: there is no folder {path.absolute().parent}."
    return None


def write(path: Path, found: Mapping[str, Any]) -> None:
    """Write a report of what `verdict.summary` returned."""
    path.write_text(_WRITERS[path.suffix](found), encoding="utf-8")


def _as_json(found: Mapping[str, Any]) -> str:
    return json.dumps(found, indent=2) + "\n"


def _as_junit(found: Mapping[str, Any]) -> str:
    """Return what CI systems read: one suite, tests with their files as class names, other faults as errors.

    It is of the form that the report of Ant's task has.
    """
    counts = found["counts"]
    tests: dict[str, dict[str, Any]] = {**found["tests"]}
    tests |= {name: {"outcome": "not_run", "seconds": 0.0} for name in found["not_run"] if name not in tests}
    # A skip that should not be is a failure, too.
    blamed = {name: fault for fault in found["faults"] for name in tests if fault.startswith(f"{name} ")}
    loose = [fault for fault in found["faults"] if fault not in blamed.values()]
    suite = ElementTree.Element(
        "testsuite",
        id="0",
        package="runwire.test",
        name="runwire test",
        timestamp=found["started_at"][:19],  # the schema has no zone; ours is UTC
        hostname="localhost",
        tests=str(len(tests) + len(loose)),
        failures=str(len(blamed)),
        errors=str(len(loose)),
        skipped=str(counts["skipped"] + counts["not_run"] - len(blamed) + counts["failed"]),
        time=f"{found['seconds']:.3f}",
    )
    ElementTree.SubElement(suite, "properties")
    for name, test in sorted(tests.items()):
        file, _, function = name.partition("::")
        case = ElementTree.SubElement(
            suite, "testcase", classname=file, name=function or file, time=f"{test['seconds']:.3f}"
        )
        if name in blamed:
            text = _NOT_XML.sub("�", test.get("evidence", blamed[name]))
            message = text.strip().splitlines()[-1][:500]
            ElementTree.SubElement(case, "failure", type="failed", message=message).text = text
        elif test["outcome"] != "passed":
            ElementTree.SubElement(case, "skipped", message=_NOT_XML.sub("�", found["not_run"].get(name, "")))
    for fault in loose:
        case = ElementTree.SubElement(suite, "testcase", classname="runwire test", name=fault, time="0.000")
        text = found["broken"].get(parted(fault, found)[0], "")
        ElementTree.SubElement(case, "error", type="fault", message=fault).text = _NOT_XML.sub("�", text)
    ElementTree.SubElement(suite, "system-out")
    ElementTree.SubElement(suite, "system-err")
    suites = ElementTree.Element("testsuites")
    suites.append(suite)
    return '<?xml version="1.0" encoding="utf-8"?>\n' + ElementTree.tostring(suites, encoding="unicode") + "\n"


def parted(fault: str, found: Mapping[str, Any]) -> tuple[str, str]:
    """Return the test or file that a fault names, or nothing, and the rest of the sentence."""
    names = [name for name in (*found["tests"], *found["not_run"], *found["broken"]) if fault.startswith(f"{name} ")]
    name = max(names, key=len, default="")
    return name, fault[len(name) :].lstrip()


def _as_markdown(found: Mapping[str, Any]) -> str:
    # Not at the top: the checker's room takes a sixth of a second, which every run of tests would wait for.
    from runwire.testing.shown import as_markdown

    return as_markdown(found)


def _as_html(found: Mapping[str, Any]) -> str:
    from runwire.testing.shown import as_html

    return as_html(found)


_WRITERS: Final[Mapping[str, Callable[[Mapping[str, Any]], str]]] = MappingProxyType(
    {".json": _as_json, ".xml": _as_junit, ".md": _as_markdown, ".html": _as_html}
)
