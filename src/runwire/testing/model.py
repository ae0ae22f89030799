"""A model on this machine that says what a test tells it, in the words of OpenAI's and Anthropic's interfaces.

::

    with FakeModel() as model:            # model.url: http://127.0.0.1:PORT/v1
        model.call("look_up", city="Oslo")
        model.say("Rain in Oslo.")        # after it has been given what the tool returned
        model.fail(status=503)
        ...
        assert len(model.requests) == 3
"""

from __future__ import annotations

import json
import threading
from collections import deque
from dataclasses import dataclass, replace
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from typing import Any, Final, Self

from runwire.testing.model_shapes import APIS, Answer, Api

__all__ = ["FakeModel", "Request"]

_MOST: Final = 10_000  # requests that are kept, and answers that wait to be given
_BODY_BYTES: Final = 64 * 1024 * 1024


@dataclass(frozen=True, slots=True, kw_only=True)
class Request:
    """What the model was asked."""

    # as it was asked for, such as `/v1/responses`
    path: str
    # names in lower case
    headers: dict[str, str]
    body: dict[str, Any]


@dataclass(frozen=True, slots=True, kw_only=True)
class _Turn:
    answer: Answer | None = None  # None: with the last message of the request
    status: int = 200
    retry_after_s: float | None = None
    hangs: bool = False
    cut_after: int | None = None


class FakeModel:
    """A server in threads of this process; what it was told is given in that order, each to one request.

    With nothing told it says the last message again. At most 10,000 requests are kept, the oldest go first.

    Args:
        pace_s: between two pieces of a stream.
    """

    def __init__(self, *, pace_s: float = 0.0) -> None:
        self.pace_s = pace_s
        self._requests: deque[Request] = deque(maxlen=_MOST)
        self._turns: deque[_Turn] = deque()
        self._lock = threading.Lock()
        self._count = 0
        self._is_over = threading.Event()

    def __enter__(self) -> Self:
        """Listen on a free port."""
        self._server = _Server(("127.0.0.1", 0), _Conversation)
        self._server.model = self
        self._thread = threading.Thread(target=self._server.serve_forever, args=(0.05,), name="fake-model", daemon=True)
        self._thread.start()
        return self

    def __exit__(self, *_: object) -> None:
        """Let go of whoever still waits for an answer, and of the port."""
        self._is_over.set()
        self._server.shutdown()
        self._server.server_close()
        self._thread.join(5)

    @property
    def url(self) -> str:
        """Return the base URL, as OpenAI's clients want it."""
        return f"{self.origin}/v1"

    @property
    def origin(self) -> str:
        """Return the base URL without a path, as Anthropic's clients want it."""
        return f"http://127.0.0.1:{self._server.server_address[1]}"

    @property
    def requests(self) -> list[Request]:
        """Return what it was asked, newest last."""
        with self._lock:
            return list(self._requests)

    def say(self, text: str, *, cut_after: int | None = None) -> None:
        """Answer with a text; `cut_after` so many pieces of a stream the connection ends."""
        self._tell(_Turn(answer=Answer(text=text), cut_after=cut_after))

    def call(self, name: str, **arguments: Any) -> None:
        """Answer with a call of a tool."""
        self._tell(_Turn(answer=Answer(tool=name, arguments=arguments)))

    def fail(self, *, status: int = 503, retry_after_s: float | None = None) -> None:
        """Answer with an error."""
        self._tell(_Turn(status=status, retry_after_s=retry_after_s))

    def hang(self) -> None:
        """Take a request and say nothing until the end."""
        self._tell(_Turn(hangs=True))

    def forget(self) -> None:
        """Forget what it was asked and told: a new test begins."""
        with self._lock:
            self._turns.clear()
            self._requests.clear()

    def _tell(self, turn: _Turn) -> None:
        with self._lock:
            if len(self._turns) >= _MOST:
                raise ValueError(f"a fake model keeps at most {_MOST} answers that nobody asked for")
            self._turns.append(turn)

    def _asked(self, request: Request) -> _Turn:
        with self._lock:
            self._requests.append(request)
            self._count += 1
            turn = self._turns.popleft() if self._turns else _Turn()
            answer = turn.answer or Answer(text=_last_said(request.body))
            return replace(
                turn, answer=replace(answer, number=self._count, model=str(request.body.get("model", "fake")))
            )


class _Server(ThreadingHTTPServer):
    daemon_threads = True
    block_on_close = False  # who hangs is let go of by the end of the process
    model: FakeModel

    def handle_error(self, request: Any, client_address: Any) -> None:
        """Say nothing: a client that leaves in the middle is what many tests are about."""


class _Conversation(BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"
    server: _Server

    def do_POST(self) -> None:
        """Answer a request."""
        size = min(int(self.headers.get("content-length") or 0), _BODY_BYTES)
        path = self.path.partition("?")[0]
        try:
            body = json.loads(self.rfile.read(size) or b"{}")
        except ValueError:
            body = None
        api = next((api for end, api in APIS.items() if path.endswith(end)), None)
        if api is None or not isinstance(body, dict):
            known = ", ".join(f"/v1{end}" for end in APIS)
            sentence = f"A fake model takes a JSON object at {known}, not {path}."
            self._say(404 if api is None else 400, {"error": {"message": sentence, "type": "invalid_request_error"}})
            return
        headers = {name.lower(): value for name, value in self.headers.items()}
        turn = self.server.model._asked(Request(path=path, headers=headers, body=body))  # noqa: SLF001 - one thing
        self._answer(api, turn, is_stream=bool(body.get("stream")))

    def _answer(self, api: Api, turn: _Turn, *, is_stream: bool) -> None:
        model = self.server.model
        assert turn.answer is not None, "whoever was asked says something"
        if turn.hangs:
            model._is_over.wait()  # noqa: SLF001 - one thing
            self.close_connection = True
        elif turn.status != 200:
            after = {} if turn.retry_after_s is None else {"retry-after": f"{turn.retry_after_s:g}"}
            self._say(turn.status, api.error(turn.status, "the fake model was told to fail"), after)
        elif is_stream:
            self._stream(api, turn.answer, turn.cut_after)
        else:
            self._say(200, api.whole(turn.answer))

    def _say(self, status: int, body: dict[str, Any], headers: dict[str, str] | None = None) -> None:
        data = json.dumps(body).encode()
        self.send_response(status)
        for name, value in {"content-type": "application/json", **(headers or {})}.items():
            self.send_header(name, value)
        self.send_header("content-length", str(len(data)))
        self.end_headers()
        self.wfile.write(data)

    def _stream(self, api: Api, answer: Answer, cut_after: int | None) -> None:
        model = self.server.model
        self.send_response(200)
        for name, value in (("content-type", "text/event-stream"), ("connection", "close")):
            self.send_header(name, value)
        self.end_headers()
        self.close_connection = True  # the end of the stream is the end of the connection: HTTP without a length
        for number, (event, data) in enumerate(api.pieces(answer)):
            if number == cut_after:
                return
            head = f"event: {event}\n" if event else ""
            self.wfile.write(f"{head}data: {json.dumps(data)}\n\n".encode())
            self.wfile.flush()
            if model.pace_s and model._is_over.wait(model.pace_s):  # noqa: SLF001 - one thing
                return
        self.wfile.write(api.last)

    def log_message(self, format: str, *args: Any) -> None:
        """Say nothing: `requests` has it."""


def _last_said(body: dict[str, Any]) -> str:
    """Return the text of the last message of a request, in whichever interface's shape."""
    said = body.get("messages", body.get("input", ""))
    if isinstance(said, list):
        said = said[-1] if said else ""
    if isinstance(said, dict):
        said = said.get("content", said.get("output", ""))
    if isinstance(said, list):
        said = "".join(str(part.get("text", "")) for part in said if isinstance(part, dict))
    return str(said)
