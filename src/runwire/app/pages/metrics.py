"""docs/reference/metrics.md: each figure that a process shows, read out of the code that makes it.

The code is read and not run, because no process has them all: a worker has none of a gateway, and some are made when
first needed.
"""

from __future__ import annotations

import ast
from collections.abc import Iterable, Mapping
from pathlib import Path
from typing import Final, NamedTuple

import runwire

__all__ = ["BOUNDS", "Figure", "figures", "page"]

_KINDS: Final[Mapping[str, str]] = {
    "Counter": "counter",
    "CounterMetricFamily": "counter",
    "Gauge": "gauge",
    "GaugeMetricFamily": "gauge",
    "Histogram": "histogram",
}
BOUNDS: Final[Mapping[str, str]] = {
    "code": "of commands `ok` or an [error code](errors.md#refusals), of closes a [close code](errors.md#close-codes)",
    "database": "its number; a worker's figures have it only where there are several databases",
    "kind": "what a breaker guards: `agent`, `model`, `tool`, `auth`",
    "name": "of a breaker; a process keeps 1,000 at most and forgets the one that matters least",
    "op": "of a command, as in [WebSocket](websocket.md)",
    "outcome": "`exported`, `failed`, `dropped`",
    "reason": "`loop_lag`, `memory`, `queue_length`, `queue_age`, or the limit: `user_messages`, `user_bytes` …",
    "rule": "of what [production refuses](settings.md#what-production-refuses)",
    "state": "`closed`, `open`, `half_open`, `forced_open`, `disabled`",
    "step": "of a self-check: `send`, `claim`, `execute`, `append`, `deliver`",
    "to": "a state",
    "why": "`queued`, `resumed`, `handed_over`, `taken_over`",
}
"""What a label may be. Never a person, thread or run: their number has no bound."""
_HEAD: Final = """\
# Metrics

Made from the code by `python -m runwire.app.pages --write`: do not edit.

Every process answers `/metrics` in Prometheus' format, on `management_port` if that is set. Names end in their unit;
a counter has `_total`, and a histogram `_bucket`, `_sum` and `_count`. `process_cpu_seconds_total`,
`process_resident_memory_bytes`, `process_open_fds` and the like come from `prometheus_client`.
"""
_TAIL: Final = """
## Labels

Each has a bounded number of values, none of which names a person, thread or run.
"""
_ROOMS: Final[Mapping[str, str]] = {
    "gateway": "Gateway",
    "runtime": "Worker",
    "resilience": "Circuit breakers",
    "process": "Every process",
    "tracing": "[Traces](../how-to/trace-runs.md), where `otel_endpoint` is set",
    "runwire": "Promises and settings",
}


class Figure(NamedTuple):
    """One figure as its definition says: without `_total`, which the format adds to a counter."""

    name: str
    kind: str
    meaning: str
    labels: tuple[str, ...]

    @property
    def shown(self) -> str:
        """Return the name as it is scraped."""
        return f"{self.name}_total" if self.kind == "counter" else self.name


def figures(root: Path | None = None) -> list[Figure]:
    """Return every figure that the code below `root` makes, by name; `root` is this package unless told otherwise.

    Raises:
        ValueError: one is made in a way that cannot be read, has no meaning, or a label that `BOUNDS` lacks.
    """
    found: dict[str, Figure] = {}
    for path in sorted((root or Path(runwire.__file__).parent).rglob("*.py")):
        source = path.read_text(encoding="utf-8")
        if "prometheus_client" in source:
            for figure in _made_in(ast.parse(source), where=path.name):
                if figure.name in found:
                    raise ValueError(f"{path.name}: {figure.name} is made in two places; make it in one")
                found[figure.name] = figure
    return [found[name] for name in sorted(found)]


def _made_in(tree: ast.Module, *, where: str) -> Iterable[Figure]:
    from_client = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("prometheus_client")
        for alias in node.names
    }
    named = {
        target.id: node.value
        for node in ast.walk(tree)
        if isinstance(node, ast.Assign)
        for target in node.targets
        if isinstance(target, ast.Name)
    }
    for node in ast.walk(tree):
        if (
            isinstance(node, ast.Call)
            and isinstance(node.func, ast.Name)
            and node.func.id in _KINDS.keys() & from_client
        ):
            yield _read(node, _KINDS[node.func.id], named, where=f"{where}:{node.lineno}")


def _read(call: ast.Call, kind: str, named: Mapping[str, ast.expr], *, where: str) -> Figure:
    given: dict[str, ast.expr] = dict(zip(("name", "documentation", "labels"), call.args, strict=False))
    given |= {keyword.arg.removesuffix("names"): keyword.value for keyword in call.keywords if keyword.arg}
    name, meaning = (_text(given.get(key), where=where) for key in ("name", "documentation"))
    labels = tuple(_labels(given.get("labels") or given.get("label"), named, where=where))
    for label in labels:
        if label not in BOUNDS:
            raise ValueError(f"{where}: say in BOUNDS of {__name__} what the label `{label}` may be")
    return Figure(name, kind, meaning.removesuffix("."), labels)


def _text(value: ast.expr | None, *, where: str) -> str:
    if isinstance(value, ast.Constant) and isinstance(value.value, str) and value.value:
        return value.value
    raise ValueError(
        f"{where}: write name and meaning of a figure out, for the page of the reference is made from them"
    )


def _labels(value: ast.expr | None, named: Mapping[str, ast.expr], *, where: str) -> Iterable[str]:
    if isinstance(value, ast.Name):
        value = named.get(value.id)
    match value:
        case None:
            return
        case ast.List(elts=each) | ast.Tuple(elts=each):
            for one in each:
                if isinstance(one, ast.Starred):
                    yield from _labels(one.value, named, where=where)
                else:
                    yield _text(one, where=where)
        case _:
            raise ValueError(f"{where}: write the labels out, for the page of the reference is made from them")


def page() -> str:
    """Return the Markdown page."""
    lines = [_HEAD]
    all_figures = figures()
    for prefix, title in _ROOMS.items():
        lines += [f"## {title}", "", "| figure | type | labels | meaning |", "|---|---|---|---|"]
        for one in all_figures:
            if one.name.split("_")[0] == prefix:
                labels = ", ".join(f"`{label}`" for label in one.labels)
                lines.append(f"| `{one.shown}` | {one.kind} | {labels} | {one.meaning} |")
        lines.append("")
    strange = [one.name for one in all_figures if one.name.split("_")[0] not in _ROOMS]
    if strange:
        raise ValueError(f"{', '.join(strange)}: a figure's name begins with one of {', '.join(_ROOMS)}")
    lines.pop()
    used = {label for one in all_figures for label in one.labels}
    lines += [_TAIL, "| label | values |", "|---|---|"]
    lines += [f"| `{label}` | {bound} |" for label, bound in BOUNDS.items() if label in used]
    return "\n".join(lines) + "\n"
