"""How spans and their attributes are called: the one place that knows a version of OpenTelemetry's conventions. Pure.

The GenAI conventions are all in development, and names have changed before. So nobody else has a literal of them, and a
test compares these with the package `opentelemetry-semantic-conventions` (https://opentelemetry.io/docs/specs/semconv/).
"""

from __future__ import annotations

from typing import Any, Final

import msgspec

__all__ = [
    "ACCEPTED_SPAN",
    "ATTEMPT",
    "CONNECTION",
    "DELIVERED_SPAN",
    "ENVIRONMENT",
    "ERROR_TYPE",
    "INSTANCE",
    "OPERATION",
    "OUTCOME",
    "OUTPUT_MESSAGES",
    "SCHEMA_URL",
    "SENT_SPAN",
    "SERVICE",
    "SERVICE_VERSION",
    "SOURCE",
    "TOOL_RESULT",
    "VERSION",
    "about",
    "call",
    "invoked",
    "messages",
    "shown",
    "usage",
]

VERSION: Final = "1.44.0"  # of the conventions
SCHEMA_URL: Final = f"https://opentelemetry.io/schemas/{VERSION}"

OPERATION: Final = "gen_ai.operation.name"
OUTPUT_MESSAGES: Final = "gen_ai.output.messages"
TOOL_RESULT: Final = "gen_ai.tool.call.result"
ERROR_TYPE: Final = "error.type"
SERVICE: Final = "service.name"
SERVICE_VERSION: Final = "service.version"
INSTANCE: Final = "service.instance.id"
ENVIRONMENT: Final = "deployment.environment.name"

# Ours: the conventions have no word for them.
SOURCE: Final = "runwire"
ATTEMPT: Final = "runwire.attempt"
OUTCOME: Final = "runwire.outcome"
CONNECTION: Final = "runwire.connection"
SENT_SPAN: Final = "send message"
ACCEPTED_SPAN: Final = "accept message"
DELIVERED_SPAN: Final = "deliver end"

Attributes = dict[str, str | int]


def about(run: str, *, thread: str, agent: str | None = None) -> Attributes:
    """Return what says which run a span is about."""
    attributes: Attributes = {"runwire.run": run, "gen_ai.conversation.id": thread}
    return attributes if agent is None else {**attributes, "gen_ai.agent.name": agent}


def invoked(agent: str, message: Any | None) -> tuple[str, Attributes]:
    """Return the name and the attributes of a span in which an agent works; `message` only where content is wanted."""
    attributes: Attributes = {OPERATION: "invoke_agent", "gen_ai.agent.name": agent}
    if message is not None:
        attributes["gen_ai.input.messages"] = messages("user", message)
    return f"invoke_agent {agent}", attributes


def call(kind: str, *, name: str, call: str, try_: int, asks: str | None, given: Any | None) -> tuple[str, Attributes]:
    """Return those of one try of a step: a tool, a call of a model, or another function of the author's.

    Args:
        kind: "tool" or "step".
        name: of the tool or step.
        call: id of this try.
        try_: its number, from 1.
        asks: what it asks; a step that asks something asks a model, `provider/model`.
        given: its arguments, where content is wanted; else None.
    """
    attributes: Attributes = {"runwire.try": try_}
    if kind == "tool":
        attributes |= {OPERATION: "execute_tool", "gen_ai.tool.name": name}
        attributes |= {"gen_ai.tool.call.id": call, "gen_ai.tool.type": "function"}
        if given is not None:
            attributes["gen_ai.tool.call.arguments"] = shown(given)
        return f"execute_tool {name}", attributes
    attributes["runwire.step"] = name
    if asks is None:
        return f"step {name}", attributes
    provider, _, model = asks.rpartition("/")
    attributes |= {OPERATION: "chat", "gen_ai.request.model": model, "gen_ai.provider.name": provider or "_OTHER"}
    if given is not None:
        attributes["gen_ai.input.messages"] = messages("user", given)
    return f"chat {model}", attributes


def usage(*, input_tokens: int, output_tokens: int) -> Attributes:
    """Return what says how much was used."""
    return {"gen_ai.usage.input_tokens": input_tokens, "gen_ai.usage.output_tokens": output_tokens}


def messages(role: str, content: Any) -> str:
    """Return one message as the conventions have a list of them."""
    text = content if isinstance(content, str) else shown(content)
    return shown([{"role": role, "parts": [{"type": "text", "content": text}]}])


def shown(value: Any) -> str:
    """Return a value as JSON, whatever it is; what is long is cut where it is kept."""
    try:
        return msgspec.json.encode(value, enc_hook=_kind).decode()
    except (TypeError, ValueError, OverflowError, RecursionError, msgspec.MsgspecError):
        return _kind(value)


def _kind(value: Any) -> str:
    return f"<{type(value).__name__}>"  # its `repr` would be code of the author's
