"""What a broken apply rule or reducer in JavaScript does wrong."""

from __future__ import annotations

from tests.histories.mutants import Mutant

_JS = "clients/js/runwire.js"

CLIENT = (
    Mutant(
        "applies whatever is newer",
        _JS,
        'if (frame.op === "position" || frame.prev > this.last) return this.subscribe();',
        'if (frame.op === "position") return this.subscribe();',
    ),
    Mutant(
        "applies again what it has",
        _JS,
        "if (frame.seq <= this.last || !this.isSubscribed) return [];",
        'if ((frame.op === "position" && frame.seq <= this.last) || !this.isSubscribed) return [];',
    ),
    Mutant(
        "never learns that the last event was lost",
        _JS,
        'if (frame.op === "position" || frame.prev > this.last) return this.subscribe();',
        'if (frame.op === "position") return [];\n    if (frame.prev > this.last) return this.subscribe();',
    ),
    Mutant(
        "takes late frames of a subscription that is being replaced",
        _JS,
        "if (frame.thread !== this.thread || this.isAsking || !this.#isOfThisView) return [];",
        "if (frame.thread !== this.thread || !this.#isOfThisView) return [];",
    ),
    Mutant(
        "takes late frames of a socket that is gone",
        _JS,
        "if (frame.thread !== this.thread || this.isAsking || !this.#isOfThisView) return [];",
        "if (frame.thread !== this.thread || this.isAsking) return [];",
    ),
    Mutant(
        "goes on showing what may never have happened",
        _JS,
        'this.shown?.clear();\n      return [{ do: "dropView"',
        'return [{ do: "dropView"',
    ),
    Mutant(
        "asks for its position in whatever history there is",
        _JS,
        "if (this.log !== null) frame.log =",
        "if (false) frame.log =",
    ),
    Mutant("takes the reply to a send for its position", _JS, "this.last ??= data.after;", "this.last = data.after;"),
    Mutant(
        "names a new log for an old position",
        _JS,
        "this.log ??= frame.log;\n    // Asked",
        "this.log = frame.log;\n    // Asked",
    ),
    Mutant(
        "asks for a hole at each later piece",
        _JS,
        "this.shown.passOver(event);\n    }\n    this.last = event.seq;\n    return [{",
        "\n    }\n    this.last = event.seq;\n    return [{",
    ),
    Mutant(
        "counts UTF-16 units", _JS, "this.length = offset + codePoints(text);", "this.length = offset + text.length;"
    ),
    Mutant(
        "cuts at UTF-16 units", _JS, 'Array.from(this.text).slice(0, offset).join("")', "this.text.slice(0, offset)"
    ),
    Mutant(
        "takes no stream of thinking back",
        _JS,
        "for (const thinking of data.thinking) run",
        "for (const thinking of []) run",
    ),
    Mutant(
        "takes every message for complete",
        _JS,
        "message.completeWith(data.content, data.complete);",
        "message.completeWith(data.content, true);",
    ),
    Mutant("ends all waits with one", _JS, "[...run.waits.values()].some(", "[...run.waits.values()].every("),
    Mutant(
        "does not go on with a message of a snapshot",
        _JS,
        "const known = isOpen && isText(content) ? new Text(content) : content;",
        "const known = content;",
    ),
    Mutant(
        "takes a subscription of another view for its own",
        _JS,
        "return this.#following !== null && this.#following.view === this.view;",
        "return this.#following !== null;",
    ),
)
