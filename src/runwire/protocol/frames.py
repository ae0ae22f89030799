"""Every frame of PROTOCOL §1: what a client may send, what a server sends, and how both are read.

A WebSocket message is one frame or a JSON array of frames, in both directions. SSE and HTTP use the same
types. What a peer sent is read by `parse_client_frames` (strict: a fault is named) and
`parse_server_frames` (lenient: what is unknown is kept aside).
"""

from __future__ import annotations

import hashlib
from collections.abc import Sequence
from typing import Annotated, Any, Final, Literal, TypeVar, Union, get_origin

import msgspec

from runwire.errors import ProtocolError, RunwireError
from runwire.protocol import strict_json
from runwire.protocol.codes import CloseCode
from runwire.protocol.events import StoredEvent, View
from runwire.protocol.strict_json import Inbound

__all__ = [
    "CLIENT_FRAMES",
    "PROTOCOL_VERSION",
    "SERVER_FRAMES",
    "SUBPROTOCOL",
    "Answer",
    "AnswerBody",
    "AnswerData",
    "Bye",
    "Cancel",
    "CancelData",
    "ClientFrame",
    "Command",
    "Content",
    "ErrorBody",
    "Event",
    "Hello",
    "Limits",
    "MessageBody",
    "Notice",
    "OnActive",
    "Ping",
    "Pong",
    "Position",
    "Refresh",
    "RefreshData",
    "Refused",
    "Reply",
    "Reset",
    "RetryBody",
    "Send",
    "SendData",
    "ServerFrame",
    "Subscribe",
    "Subscribed",
    "TextPart",
    "UnknownFrame",
    "Unsubscribe",
    "Unsubscribed",
    "Welcome",
    "encode",
    "encode_event",
    "error_body",
    "fingerprint",
    "fingerprint_of_retry",
    "join",
    "parse_client_frames",
    "parse_server_frames",
    "reply_error",
    "reply_ok",
    "text_of",
    "with_any_word",
]

PROTOCOL_VERSION: Final = 1
SUBPROTOCOL: Final = "runwire.v1"

Seq = Annotated[int, msgspec.Meta(ge=0, le=2**53 - 1)]  # exact in JavaScript
After = Annotated[int, msgspec.Meta(ge=-1, le=2**53 - 1)]
Key = Annotated[str, msgspec.Meta(min_length=1, max_length=255)]  # fits any database index
OnActive = Literal["enqueue", "reject", "interrupt"]


class TextPart(msgspec.Struct, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A part of a message: `{"type":"text","text":"…"}`."""

    type: Literal["text"]
    text: str


Content = str | list[TextPart]


def text_of(content: Content) -> str:
    """Return what a person wrote, parts joined."""
    return content if isinstance(content, str) else "".join(part.text for part in content)


# ── from the client ──────────────────────────────────────────────────────────────────────────────────────


class MessageBody(Inbound, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """A person's message, as `POST /v1/threads/{id}/messages` takes it; `send` adds key and thread."""

    content: Content
    agent: str | None = None
    on_active: OnActive = "enqueue"
    metadata: dict[str, Any] | None = None

    def validate(self) -> None:
        """Refuse a message without a word in it."""
        if not text_of(self.content).strip():
            raise strict_json.refusal("The message is empty.", field="content")


class AnswerBody(Inbound, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """The answer to a wait, as `POST /v1/runs/{id}/answers` takes it. `value` must be there, null is a value."""

    wait: str
    value: Any


class RetryBody(Inbound, frozen=True, kw_only=True, forbid_unknown_fields=True):
    """What `POST /v1/runs/{id}/retry` takes: the message is that of the run."""

    on_active: OnActive = "enqueue"


class Hello(Inbound, frozen=True, kw_only=True, tag_field="op", tag="hello"):
    """The first frame of a browser. Unknown fields are ignored here and nowhere else."""

    token: str
    client: str | None = None


class Subscribe(Inbound, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="op", tag="subscribe"):
    """Ask for a thread's events after a position."""

    id: str
    thread: str
    after: After = 0  # 0: from the start; -1: from now
    log: str | None = None
    view: View = "all"


class Unsubscribe(Inbound, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="op", tag="unsubscribe"):
    """Ask for no more of a thread."""

    id: str
    thread: str


class Send(MessageBody, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="op", tag="send"):
    """Say something to an agent; starts a run."""

    id: str
    key: Key | None = None
    thread: str | None = None  # None: a new thread


class Cancel(Inbound, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="op", tag="cancel"):
    """Ask a run to end."""

    id: str
    run: str


class Answer(AnswerBody, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="op", tag="answer"):
    """Answer a wait of a run."""

    id: str
    run: str


class Refresh(Inbound, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="op", tag="refresh"):
    """Bring a fresh token of the same user."""

    id: str
    token: str


class Pong(Inbound, frozen=True, kw_only=True, forbid_unknown_fields=True, tag_field="op", tag="pong"):
    """A sign of life."""


Command = Subscribe | Unsubscribe | Send | Cancel | Answer | Refresh
ClientFrame = Hello | Command | Pong
CLIENT_FRAMES: Final = (Hello, Subscribe, Unsubscribe, Send, Cancel, Answer, Refresh, Pong)


# ── from the server ──────────────────────────────────────────────────────────────────────────────────────


class _FromServer(msgspec.Struct, frozen=True, kw_only=True, tag_field="op", gc=False):
    """A frame of the server."""


class Limits(msgspec.Struct, frozen=True, kw_only=True):
    """What a connection may use at most."""

    frame_bytes: int = 65_536
    subscriptions: int = 64
    commands_in_flight: int = 32
    replay_events: int = 20_000


class ErrorBody(msgspec.Struct, frozen=True, kw_only=True):
    """Why a command was refused."""

    code: str  # codes.ErrorCode; a newer server may have more
    message: str
    field: str | None = None
    retry_after_s: float | None = None


class Welcome(_FromServer, frozen=True, kw_only=True, tag="welcome"):
    """The connection is signed in."""

    protocol: int
    server: str
    connection: str
    user: str
    log: str
    ping_s: float
    pong_s: float
    expires_at: int | None = None  # ms UTC, of the token; None: it has no end
    limits: Limits = Limits()


class Subscribed(_FromServer, frozen=True, kw_only=True, tag="subscribed"):
    """A subscription begins: everything after `after` follows."""

    id: str
    thread: str
    log: str
    view: View
    after: int
    head: int


class SendData(msgspec.Struct, frozen=True, kw_only=True):
    """`reply.data` of `send`."""

    thread: str
    log: str
    after: int
    run: str
    message: str
    seq: int


class CancelData(msgspec.Struct, frozen=True, kw_only=True):
    """`reply.data` of `cancel`: the status is what was found, the terminal event is the outcome."""

    run: str
    status: str


class AnswerData(msgspec.Struct, frozen=True, kw_only=True):
    """`reply.data` of `answer`."""

    run: str
    wait: str


class RefreshData(msgspec.Struct, frozen=True, kw_only=True):
    """`reply.data` of `refresh`."""

    expires_at: int | None


class Reply(_FromServer, frozen=True, kw_only=True, tag="reply"):
    """The answer to a command: `data` when ok, else `error`."""

    id: str | None  # None: the command had none that could be read
    ok: bool
    data: Any = msgspec.UNSET
    error: ErrorBody | msgspec.UnsetType = msgspec.UNSET


class Event(_FromServer, frozen=True, kw_only=True, tag="event"):
    """One event of a thread; `prev` is the event before it in this view."""

    thread: str
    seq: int
    prev: int
    run: str
    attempt: int
    ts: int
    type: str
    data: msgspec.Raw


class Position(_FromServer, frozen=True, kw_only=True, tag="position"):
    """The last event that was written in this subscription."""

    thread: str
    seq: int


class Reset(_FromServer, frozen=True, kw_only=True, tag="reset"):
    """The history that was asked for is not to be had; what follows begins after `from`."""

    thread: str
    log: str
    from_: int = msgspec.field(name="from")
    reason: Literal["log_changed", "too_far_behind", "trimmed"]


class Unsubscribed(_FromServer, frozen=True, kw_only=True, tag="unsubscribed"):
    """Nothing more of this thread comes."""

    id: str | None
    thread: str
    reason: Literal["deleted", "asked"]


class Notice(_FromServer, frozen=True, kw_only=True, tag="notice"):
    """A hint that is never stored and has no seq."""

    kind: Literal["draining", "stalled", "token_expiring"]
    thread: str | None = None
    data: dict[str, Any] = {}


class Ping(_FromServer, frozen=True, kw_only=True, tag="ping"):
    """Ask for a sign of life."""


class Bye(_FromServer, frozen=True, kw_only=True, tag="bye"):
    """The close that follows, in words; best effort."""

    code: int
    reconnect: bool
    after_s: float | None = None
    reason: str = ""


ServerFrame = Welcome | Subscribed | Reply | Event | Position | Reset | Unsubscribed | Notice | Ping | Bye
SERVER_FRAMES: Final = (Welcome, Subscribed, Reply, Event, Position, Reset, Unsubscribed, Notice, Ping, Bye)


class Refused(msgspec.Struct, frozen=True, kw_only=True):
    """A JSON object that is no sound frame: answer it with `reply_error(refused.id, refused.error)`."""

    id: str | None
    error: ErrorBody


class UnknownFrame(msgspec.Struct, frozen=True, kw_only=True):
    """A frame of a newer server; to be ignored."""

    op: str
    raw: dict[str, Any]


# ── reading ──────────────────────────────────────────────────────────────────────────────────────────────

_KIND_OF: Final[dict[str, type[Any]]] = {str(kind.__struct_config__.tag): kind for kind in CLIENT_FRAMES}
_client_frame: Final[msgspec.json.Decoder[ClientFrame]] = msgspec.json.Decoder(ClientFrame)
_client_frames: Final = msgspec.json.Decoder(list[ClientFrame])
_server_frame: Final[msgspec.json.Decoder[ServerFrame]] = msgspec.json.Decoder(ServerFrame)
_server_frames: Final = msgspec.json.Decoder(list[ServerFrame])
_raws: Final = msgspec.json.Decoder(list[msgspec.Raw])


def parse_client_frames(message: str | bytes, *, is_binary: bool = False) -> list[ClientFrame | Refused]:
    """Read one WebSocket message of a client: its frames in order, each sound or refused.

    Args:
        message: the text, or its UTF-8 bytes.
        is_binary: the message came as a binary one, which is refused whatever it holds.

    Raises:
        ProtocolError: with `close` 4500; the message is not JSON, binary, deeper than 64, not UTF-8,
            or holds something that is not an object.
    """
    if is_binary:
        raise ProtocolError("A frame is a text message; this one is binary.", close=CloseCode.BAD_FRAME)
    text = strict_json.as_text(message)
    if strict_json.is_plain(text):
        try:
            frames = _decode_all(text)
        except (msgspec.DecodeError, UnicodeEncodeError, ProtocolError):
            pass  # read again below, where each fault gets its name
        else:
            return frames
    value = strict_json.parse(text)
    return [_frame_or_refused(item) for item in (value if isinstance(value, list) else [value])]


def _decode_all(text: str) -> list[ClientFrame | Refused]:
    frames: list[ClientFrame | Refused] = []
    for frame in _client_frames.decode(text) if _is_array(text) else (_client_frame.decode(text),):
        frame.validate()
        frames.append(frame)
    return frames


def _frame_or_refused(value: Any) -> ClientFrame | Refused:
    if not isinstance(value, dict):
        raise ProtocolError("A frame is a JSON object, or several in one array.", close=CloseCode.BAD_FRAME)
    try:
        op = value.get("op")
        kind = _KIND_OF.get(op) if isinstance(op, str) else None
        if kind is None:
            raise strict_json.refusal(f"`op` must be one of: {', '.join(_KIND_OF)}.", field="op")
        frame: ClientFrame = strict_json.check(kind, value)
    except ProtocolError as error:
        return Refused(id=_readable_id(value.get("id")), error=error_body(error))
    return frame


def _readable_id(value: Any) -> str | None:
    """Return the id if it can be echoed as it is: a string without lone surrogates."""
    return value if isinstance(value, str) and value == strict_json.encodable(value) else None


def parse_server_frames(message: str | bytes) -> list[ServerFrame | UnknownFrame]:
    """Read one WebSocket message (or SSE `data`) of a server. Unknown fields and frames are no error.

    Raises:
        ProtocolError: with `close` 4500; it is not JSON, or a known frame lacks what it must have.
    """
    text = strict_json.as_text(message)
    try:
        if not _is_array(text):
            return [_server_frame.decode(text)]
        return [*_server_frames.decode(text)]
    except msgspec.DecodeError:
        pass  # a frame of a newer server, perhaps: one by one below
    try:
        return [_known_or_unknown(raw) for raw in (_raws.decode(text) if _is_array(text) else [msgspec.Raw(text)])]
    except msgspec.DecodeError as error:
        raise ProtocolError(f"The server sent what is no frame: {error}.", close=CloseCode.BAD_FRAME) from error


def _known_or_unknown(raw: msgspec.Raw) -> ServerFrame | UnknownFrame:
    value = msgspec.json.decode(raw, type=dict[str, Any])
    op = value.get("op")
    if isinstance(op, str) and op not in _SERVER_OPS:
        return UnknownFrame(op=op, raw=value)
    try:
        return _server_frame.decode(raw)
    except msgspec.ValidationError:
        return _newer_server_frame.decode(raw)


_Shape = TypeVar("_Shape", bound=msgspec.Struct)


def with_any_word(shape: type[_Shape]) -> type[_Shape]:
    """Return the type as what reads a newer version has it: with any text where only known words are written.

    A word that is not known is another value, not another shape: a run ends, by whomever it was cancelled.
    """
    words = [(field.name, str) for field in msgspec.structs.fields(shape) if get_origin(field.type) is Literal]
    return msgspec.defstruct(shape.__name__, words, bases=(shape,), frozen=True, kw_only=True)  # type: ignore[return-value]


_newer_server_frame: Final[msgspec.json.Decoder[ServerFrame]] = msgspec.json.Decoder(
    Union[tuple(with_any_word(frame) for frame in SERVER_FRAMES)]  # noqa: UP007 - made at run time
)
_SERVER_OPS: Final = frozenset(str(kind.__struct_config__.tag) for kind in SERVER_FRAMES)


def _is_array(text: str) -> bool:
    return text.lstrip(" \t\r\n")[:1] == "["


# ── writing ──────────────────────────────────────────────────────────────────────────────────────────────

_encoder: Final = msgspec.json.Encoder()
_sorting_encoder: Final = msgspec.json.Encoder(order="deterministic")


def encode(frame: ClientFrame | ServerFrame) -> bytes:
    """Encode one frame."""
    return _encoder.encode(frame)


def encode_event(thread: str, event: StoredEvent, prev: int) -> bytes:
    """Encode an event as its frame; its data goes through as the bytes it was stored as."""
    return _encoder.encode(
        Event(
            thread=thread,
            seq=event.seq,
            prev=prev,
            run=event.run,
            attempt=event.attempt,
            ts=event.ts,
            type=event.type,
            data=event.data,
        )
    )


def join(encoded: Sequence[bytes]) -> bytes:
    """Make one message of encoded frames: the frame itself, or an array of several."""
    return encoded[0] if len(encoded) == 1 else b"[" + b",".join(encoded) + b"]"


def reply_ok(id_: str, data: Any) -> Reply:
    """Make the reply to a command that was done."""
    return Reply(id=id_, ok=True, data=data)


def reply_error(id_: str | None, error: ErrorBody | RunwireError) -> Reply:
    """Make the reply to a command that was refused."""
    return Reply(id=id_, ok=False, error=error if isinstance(error, ErrorBody) else error_body(error))


def error_body(error: RunwireError) -> ErrorBody:
    """Return an error as the wire shows it."""
    return ErrorBody(code=error.code, message=error.message, field=error.field, retry_after_s=error.retry_after_s)


def fingerprint(body: MessageBody, *, thread: str | None) -> str:
    """Return what is equal for equal messages: with the same idempotency key, another one is a conflict."""
    said = [thread, body.agent, body.content, body.on_active, body.metadata or {}]
    return hashlib.sha256(_sorting_encoder.encode(said)).hexdigest()


def fingerprint_of_retry(body: RetryBody, *, run: str) -> str:
    """Return what is equal for equal retries; no message has the same."""
    return hashlib.sha256(_sorting_encoder.encode({"retry": run, "on_active": body.on_active})).hexdigest()
