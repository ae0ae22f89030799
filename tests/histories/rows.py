"""The rows of the apply rule (PROTOCOL §1), told apart, so that a test can say which ones its histories reach."""

from __future__ import annotations

from typing import Any

from tests.histories.server import THREAD

from runwire.protocol import frames

ROWS = frozenset(
    {
        "until its answer: event",
        "until its answer: position",
        "until its answer: reset",
        "subscribed",
        "subscribed from now",
        "subscribed from now, after a send",
        "subscribed in another log",
        "subscribed to what is not asked any more",
        "refused",
        "refused, an older subscription goes on",
        "sent, no position held",
        "sent, same log held",
        "sent, other log held",
        "event without a subscription",
        "seq <= last",
        "prev <= last < seq",
        "prev > last",
        "offset beyond the end",
        "offset beyond the end, again",
        "position.seq <= last",
        "position.seq > last",
        "position without a subscription",
        "reset log_changed",
        "reset too_far_behind",
        "reset trimmed",
        "reset without a subscription",
        "unsubscribed asked",
        "unsubscribed deleted",
        "not of this thread",
    }
)


def row_of(cursor: Any, given: dict[str, Any]) -> str | None:
    """Return the row that an input of a cursor falls under; None: it is no frame."""
    if "sent" in given:
        if cursor.last is None:
            return "sent, no position held"
        held = cursor.log in (None, given["sent"].data.log)
        return "sent, same log held" if held else "sent, other log held"
    frame = given.get("frame")
    if frame is None:
        return None
    if isinstance(frame, frames.Reply) and not frame.ok and cursor.is_asking and frame.id == cursor._asked:
        return "refused, an older subscription goes on" if cursor.is_subscribed else "refused"
    if getattr(frame, "thread", None) != THREAD or isinstance(frame, frames.Notice):
        return "not of this thread"
    match frame:
        case frames.Subscribed():
            return _row_of_subscribed(cursor, frame)
        case frames.Unsubscribed():
            return f"unsubscribed {frame.reason}"
    return _row_of_followed(cursor, frame)


def _row_of_subscribed(cursor: Any, frame: frames.Subscribed) -> str:
    if frame.id != cursor._asked:
        return "subscribed to what is not asked any more"
    if cursor.log not in (None, frame.log):
        return "subscribed in another log"
    if cursor.last is None:
        return "subscribed from now"
    return "subscribed from now, after a send" if frame.after > cursor.last else "subscribed"


def _row_of_followed(cursor: Any, frame: Any) -> str:
    op = type(frame).__name__.lower()
    if cursor.is_asking:
        return f"until its answer: {op}"
    if cursor._following is None:
        return f"{op} without a subscription"
    if isinstance(frame, frames.Reset):
        return f"reset {frame.reason}"
    if isinstance(frame, frames.Position):
        return "position.seq <= last" if frame.seq <= cursor.last else "position.seq > last"
    if frame.seq <= cursor.last:
        return "seq <= last"
    return "prev > last" if frame.prev > cursor.last else "prev <= last < seq"
