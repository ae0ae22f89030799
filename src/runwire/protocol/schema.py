"""JSON Schema, TypeScript types and the reference page, all made from the types of this room.

`python -m runwire.protocol.schema --write` in the project's root brings `docs/reference/` up to date,
`--check` says whether it is. The functions are pure; only `main` touches files.
"""

from __future__ import annotations

import json
import sys
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final

import msgspec

from runwire.protocol import frames
from runwire.protocol.codes import ErrorCode, RunFailure
from runwire.protocol.events import DELTA_TYPES, EVENT_DATA, INTERNAL_TYPES, TERMINAL_TYPES, EventType

__all__ = ["FOLDER", "files", "json_schema", "main", "reference_page", "typescript"]

FOLDER: Final = "docs/reference"
_REPLIES: Final = (frames.SendData, frames.CancelData, frames.AnswerData, frames.RefreshData)
_BODIES: Final = (frames.MessageBody, frames.AnswerBody, frames.RetryBody)


# What the types leave open (`Any`), because any field of an event's data may be a reference to a blob.
_OPEN_TYPES: Final[Mapping[tuple[str, str], str]] = {
    ("UserMessage", "content"): "Content | Ref",
    ("MessageCompleted", "content"): "string | Ref",
    ("AgentThinking", "text"): "string | Ref",
}

_TYPESCRIPT_HEAD: Final = """\
// Runwire wire protocol, version 1. Made by `python -m runwire.protocol.schema --write`: do not edit.

/** A value too large for an event: `GET /v1/blobs/{$ref}` has all of it. */
export interface Ref { $ref: string; bytes: number; head: string }
export type Content = string | TextPart[];
"""

_TYPESCRIPT_SNAPSHOT: Final = """\
/** `GET /v1/threads/{id}` */
export interface ThreadSnapshot {
  thread: string; title: string | null; log: string; seq: number;
  messages: SnapshotMessage[]; runs: SnapshotRun[];
}
export interface SnapshotMessage {
  message: string; role: string; content: Content | Ref; run: string; seq: number; complete: boolean;
}
export interface SnapshotRun {
  run: string; agent: string | null;
  status: "queued" | "running" | "waiting" | "completed" | "failed" | "cancelled";
  attempt: number; error: AgentFailed | null; steps: SnapshotStep[]; waits: SnapshotWait[];
}
export interface SnapshotStep {
  call: string; name: string; args: unknown; ok: boolean | null; result: unknown; error: EventError | null;
}
export interface SnapshotWait {
  wait: string; kind: string | null; prompt: unknown; call: string | null; due_at: number | null;
  value: unknown; by: string | null;
}
"""


def files() -> dict[str, str]:
    """Return the text of every generated file by its name in `FOLDER`."""
    return {
        "protocol.schema.json": json.dumps(json_schema(), indent=2, ensure_ascii=False) + "\n",
        "protocol.d.ts": typescript(),
        "events.md": reference_page(),
    }


# ── JSON Schema ──────────────────────────────────────────────────────────────────────────────────────────


def json_schema() -> dict[str, Any]:
    """Return the JSON Schema (2020-12) of a client's and a server's messages, with every type in `$defs`."""
    defs = _definitions()
    defs["Event"]["allOf"] = [
        {
            "if": {"properties": {"type": {"const": str(kind)}}},
            "then": {"properties": {"data": _ref(EVENT_DATA[kind].__name__)}},
        }
        for kind in EventType
    ]
    for side, kinds in (("Client", frames.CLIENT_FRAMES), ("Server", frames.SERVER_FRAMES)):
        defs[f"{side}Frame"] = {"oneOf": [_ref(kind.__name__) for kind in kinds]}
        frame = _ref(f"{side}Frame")
        defs[f"{side}Message"] = {"anyOf": [frame, {"type": "array", "items": frame}]}
    return {
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Runwire wire protocol, version 1",
        "description": "A WebSocket message of a server. What a client sends is `#/$defs/ClientMessage`.",
        "$ref": "#/$defs/ServerMessage",
        "$defs": dict(sorted(defs.items())),
    }


def _definitions() -> dict[str, Any]:
    kinds = [*frames.CLIENT_FRAMES, *frames.SERVER_FRAMES, *_REPLIES, *_BODIES, *EVENT_DATA.values()]
    _, defs = msgspec.json.schema_components(kinds, ref_template="#/$defs/{name}")
    for definition in defs.values():
        definition.pop("title", None)
    return defs


def _ref(name: str) -> dict[str, str]:
    return {"$ref": f"#/$defs/{name}"}


# ── TypeScript ───────────────────────────────────────────────────────────────────────────────────────────


def typescript() -> str:
    """Return the text of the TypeScript declarations."""
    defs = _definitions()
    client_types = [kind for kind in EventType if kind not in INTERNAL_TYPES]
    own_data = {EVENT_DATA[kind].__name__ for kind in INTERNAL_TYPES}
    parts = [_TYPESCRIPT_HEAD]
    parts += [_interface(name, defs[name]) for name in sorted(defs.keys() - own_data - {"Event"})]
    parts.append(
        "/** The data of each type of event that clients see. */\nexport interface EventDataByType {\n"
        + "".join(f"  {kind}: {EVENT_DATA[kind].__name__};\n" for kind in client_types)
        + "}\n"
    )
    event_fields = [field for field in _fields("Event", defs["Event"]) if field[0] not in ("type", "data")]
    parts.append(
        f"/** {defs['Event']['description']} */\nexport interface EventOf<T extends keyof EventDataByType> {{\n"
        + "".join(f"  {name}{mark}: {kind};\n" for name, mark, kind in event_fields)
        + "  type: T;\n  data: EventDataByType[T];\n}\n"
    )
    parts.append("export type Event = { [T in keyof EventDataByType]: EventOf<T> }[keyof EventDataByType];\n")
    for side, kinds in (("Client", frames.CLIENT_FRAMES), ("Server", frames.SERVER_FRAMES)):
        parts.append(f"export type {side}Frame = {' | '.join(kind.__name__ for kind in kinds)};\n")
    parts.append(f"export type ErrorCode = {_words(ErrorCode)};\n")
    parts.append(f"export type RunFailure = {_words(RunFailure)};\n")
    parts.append(_TYPESCRIPT_SNAPSHOT)
    return "\n".join(parts)


def _interface(name: str, definition: Mapping[str, Any]) -> str:
    fields = "".join(f"  {field}{mark}: {kind};\n" for field, mark, kind in _fields(name, definition))
    return f"/** {definition['description']} */\nexport interface {name} {{\n{fields}}}\n"


def _fields(name: str, definition: Mapping[str, Any]) -> Iterable[tuple[str, str, str]]:
    """Yield each field of a definition: its name, `?` if it may be missing, its type in TypeScript."""
    required = definition.get("required", ())
    for field, schema in definition["properties"].items():
        kind = _OPEN_TYPES.get((name, field)) or _type(schema)
        yield field, "" if field in required else "?", kind


def _type(schema: Mapping[str, Any]) -> str:
    if "$ref" in schema:
        return str(schema["$ref"]).rpartition("/")[2]
    if "enum" in schema:
        return " | ".join(json.dumps(value) for value in schema["enum"])
    if "anyOf" in schema:
        return " | ".join(_type(each) for each in schema["anyOf"])
    if schema.get("type") == "array":
        return f"{_type(schema['items'])}[]"
    if schema.get("type") == "object":
        return "Record<string, unknown>"
    kind = str(schema.get("type", "unknown"))
    return "number" if kind == "integer" else kind


def _words(values: Iterable[str]) -> str:
    return " | ".join(json.dumps(str(value)) for value in values)


# ── the reference page ───────────────────────────────────────────────────────────────────────────────────


def reference_page() -> str:
    """Return the Markdown page of all events."""
    groups = {
        "Lifecycle events": [kind for kind in EventType if kind not in DELTA_TYPES | INTERNAL_TYPES],
        "Deltas": [kind for kind in EventType if kind in DELTA_TYPES],
        "Internal events": [kind for kind in EventType if kind in INTERNAL_TYPES],
    }
    notes = {
        "Lifecycle events": "In every view. An event marked *ends the run* is the last one of its run.",
        "Deltas": "Pieces of a stream, not in the view `lifecycle`. Apply each as `text[:offset] + text`.",
        "Internal events": "They have a `seq` and are in no view: operators read them.",
    }
    lines = [
        "# Events",
        "",
        "Made from the types in `runwire.protocol` by `python -m runwire.protocol.schema --write`: do not edit.",
        "`?` marks a field that may be missing. Types are written as in TypeScript (`protocol.d.ts`).",
        "A field of more than 64 KiB is replaced by `{$ref, bytes, head}`; `GET /v1/blobs/{ref}` has all of it.",
        "What the codes mean is in [Errors and codes](errors.md).",
    ]
    defs = _definitions()
    for title, kinds in groups.items():
        lines += ["", f"## {title}", "", notes[title]]
        for kind in kinds:
            lines += ["", f"### `{kind}`", "", *_event_lines(kind, defs[EVENT_DATA[kind].__name__])]
    return "\n".join(lines) + "\n"


def _event_lines(kind: EventType, definition: Mapping[str, Any]) -> list[str]:
    ends = " *Ends the run.*" if kind in TERMINAL_TYPES else ""
    rows = ((f"{field}{mark}", f"`{kind_}`") for field, mark, kind_ in _fields(EVENT_DATA[kind].__name__, definition))
    return [f"{definition['description']}{ends}", "", *_table("field", "type", rows)]


def _table(name: str, value: str, rows: Iterable[tuple[Any, Any]]) -> list[str]:
    cells = [f"| `{key}` | {str(text).replace('|', chr(92) + '|')} |" for key, text in rows]
    return [f"| {name} | {value} |", "|---|---|", *cells]


# ── the command ──────────────────────────────────────────────────────────────────────────────────────────


def main(arguments: Sequence[str]) -> int:
    """Write the files into `FOLDER` of the working directory, or check them. Returns the exit status."""
    if list(arguments) not in (["--write"], ["--check"]):
        sys.stderr.write("usage: python -m runwire.protocol.schema --write | --check\n")
        return 2
    stale = [name for name, text in files().items() if _read(name) != text]
    for name in stale if arguments[0] == "--write" else ():
        with open(f"{FOLDER}/{name}", "w", encoding="utf-8", newline="\n") as file:
            file.write(files()[name])
        sys.stdout.write(f"wrote {FOLDER}/{name}\n")
    if stale and arguments[0] == "--check":
        sys.stderr.write(f"out of date: {', '.join(stale)}; run `python -m runwire.protocol.schema --write`\n")
        return 1
    return 0


def _read(name: str) -> str | None:
    try:
        with open(f"{FOLDER}/{name}", encoding="utf-8", newline="") as file:
            return file.read()
    except FileNotFoundError:
        return None


if __name__ == "__main__":  # pragma: no cover - the tests call `main`
    sys.exit(main(sys.argv[1:]))
