"""The client that a program uses: send, follow, answer, cancel."""

from __future__ import annotations

import asyncio
import random
import time
import weakref
from collections.abc import AsyncGenerator, AsyncIterator
from contextlib import aclosing, asynccontextmanager
from typing import Any, Final

import msgspec

from runwire.client.backoff import Backoff
from runwire.client.feed import Event, Feed, Reset
from runwire.client.http import Http
from runwire.client.link import Link
from runwire.client.session import Pending
from runwire.client.token import Token
from runwire.errors import RunFailed, Unavailable
from runwire.protocol import frames
from runwire.protocol.events import TERMINAL_TYPES, EventType, View
from runwire.protocol.ids import new_id

__all__ = ["Client", "Run", "connect"]

_REPLY_S: Final = 30.0
_CLIENT: Final = "runwire-python/0.1"


class Client:
    """A connection to a server that heals itself. Made by `connect`; for one event loop.

    Events come in order and exactly once, across lost connections: the position is kept here.
    """

    def __init__(self, link: Link, http: Http, *, user: str) -> None:
        self.user = user  # id of who is signed in
        self.http = http
        self._link = link

    async def send(
        self,
        content: str,
        *,
        thread: str | None = None,
        agent: str | None = None,
        on_active: frames.OnActive = "enqueue",
        metadata: dict[str, Any] | None = None,
        key: str | None = None,
        timeout_s: float = _REPLY_S,
    ) -> Run:
        """Say something to an agent and return the run that it starts.

        A reply that is lost with its connection is asked for again with the same key, so a message never starts two
        runs.

        Args:
            content: the message.
            thread: where; None begins a new thread.
            agent: whom; None: the only one, or the server's default.
            on_active: what becomes of the message while another run of the thread is active.
            metadata: stored with the message.
            key: what makes the send idempotent for this user; None takes a fresh one.
            timeout_s: for the reply. After `Unavailable`, send again with the same `key`.

        Raises:
            RunwireError: refused, or no reply in time.
        """
        frame = frames.Send(
            id=self._link.new_id(),
            key=key or new_id("key"),
            thread=thread,
            agent=agent,
            content=content,
            on_active=on_active,
            metadata=metadata,
        )
        wake = asyncio.Event()
        pending = await self._link.command(frame, timeout_s=timeout_s, pending=Pending(frame, feed_wake=wake.set))
        assert isinstance(pending.data, frames.SendData)
        assert pending.feed
        return Run(self, self._link, pending.data, first=_Reader(self._link, pending.feed, wake))

    async def events(
        self, thread: str, *, after: int = 0, log: str | None = None, view: View = "all"
    ) -> AsyncGenerator[Event | Reset]:
        """Follow a thread after a position, without end.

        Args:
            thread: which.
            after: a seq; 0: from the start, -1: from now.
            log: the history that `after` belongs to, as a snapshot or event said; a `Reset` comes if it changed.
            view: `lifecycle` leaves the deltas out.

        Yields:
            Events, in order, each once; a `Reset` where the server cannot go on.

        Raises:
            NotFound: no such thread, or it was deleted.
            RunwireError: the server refused for good.
        """
        wake = asyncio.Event()
        feed = Feed(thread, last=None if after < 0 else after, log=log, view=view, wake=wake.set)
        self._link.open(feed)
        async with aclosing(_Reader(self._link, feed, wake).items()) as items:
            async for item in items:
                yield item

    async def cancel(self, run: str, *, timeout_s: float = _REPLY_S) -> str:
        """Ask a run to end and return the status it had; its terminal event is the outcome."""
        frame = frames.Cancel(id=self._link.new_id(), run=run)
        data = (await self._link.command(frame, timeout_s=timeout_s)).data
        return str(data.get("status", "")) if isinstance(data, dict) else ""

    async def answer(self, run: str, wait: str, value: Any, *, timeout_s: float = _REPLY_S) -> None:
        """Answer a wait of a run, as `agent_waiting` named it; the first answer wins.

        An answer whose reply is lost with its connection is given again: the same one twice is as good as once.

        Args:
            run: which.
            wait: `wait` of the event.
            value: True or False for an approval, any JSON for an input.
            timeout_s: for the reply. After `Unavailable`, answer again.

        Raises:
            Conflict: it was answered otherwise, its time was over, or the run has ended.
            NotFound: no such run or wait.
            ProtocolError: not what such a wait takes.
        """
        frame = frames.Answer(id=self._link.new_id(), run=run, wait=wait, value=value)
        await self._link.command(frame, timeout_s=timeout_s)

    async def retry(
        self,
        run: str,
        *,
        on_active: frames.OnActive = "enqueue",
        key: str | None = None,
        timeout_s: float = _REPLY_S,
    ) -> Run:
        """Start a new run with the message of one that has ended, and return it.

        It is asked for over HTTP until there is an answer, with one key: so it never starts two runs.

        Args:
            run: which has ended.
            on_active: what becomes of it while another run of the thread is active.
            key: what makes the retry idempotent for this user; None takes a fresh one.
            timeout_s: for an answer. After `Unavailable`, ask again with the same `key`.

        Raises:
            NotFound: no such run, or its message is no longer kept.
            Conflict: the run has not ended.
            RunwireError: refused, or no answer in time.
        """
        key = key or new_id("key")
        backoff, end_s = Backoff(), time.monotonic() + timeout_s
        while True:
            try:
                async with asyncio.timeout(end_s - time.monotonic()):
                    data = await self.http.retry(run, on_active=on_active, key=key)
                    break
            except TimeoutError:
                raise Unavailable(f"No answer within {timeout_s:g} s; ask again with the same key.") from None
            except Unavailable as error:
                backoff.lost(lived_s=0)
                pause_s = backoff.wait_s(chance=random.random(), asked_s=error.retry_after_s)  # noqa: S311 - jitter
                if time.monotonic() + pause_s >= end_s:
                    raise
                await asyncio.sleep(pause_s)
        sent = msgspec.convert(data | {"after": data["seq"] - 1}, frames.SendData)
        return Run(self, self._link, sent)


class Run:
    """A run that this client started."""

    def __init__(self, client: Client, link: Link, sent: frames.SendData, *, first: _Reader | None = None) -> None:
        self.id = sent.run
        self.thread = sent.thread
        self.message = sent.message  # id of the message that was sent
        self.seq = sent.seq  # of its user_message
        self.log = sent.log
        self._client = client
        self._link = link
        self._sent = sent
        self._first = first  # already filled since the reply
        self._terminal: Event | None = None

    async def events(self, *, view: View = "all") -> AsyncGenerator[Event | Reset]:
        """Follow the run from its user_message to its terminal event, which is the last item.

        Raises:
            LogReset: the server replays no more what this reader has not read.
        """
        async with aclosing(self._reader(view).items()) as items:
            async for item in items:
                if isinstance(item, Event) and item.type in TERMINAL_TYPES:
                    self._terminal = item
                yield item

    async def result(self) -> Any:
        """Wait for the run's end and return its output.

        Raises:
            RunFailed: it failed or was cancelled (`code` is then `agent_cancelled`).
        """
        if self._terminal is None:
            async with aclosing(self.events(view="lifecycle")) as items:
                async for _ in items:
                    pass
        end = self._terminal
        if end is None:
            raise RunFailed("The run's end was not seen.", code="internal")
        if end.type == EventType.AGENT_COMPLETED:
            return end.data.get("output")
        if end.type == EventType.AGENT_CANCELLED:
            raise RunFailed(f"The run was cancelled by {end.data.get('by')}.", code=end.type)
        raise RunFailed(
            str(end.data.get("message")), code=end.data.get("code"), retry_after_s=end.data.get("retry_after_s")
        )

    async def cancel(self) -> str:
        """Ask the run to end; returns the status it had."""
        return await self._client.cancel(self.id)

    async def answer(self, wait: str, value: Any) -> None:
        """Answer a wait of the run; see `Client.answer`."""
        await self._client.answer(self.id, wait, value)

    async def retry(self) -> Run:
        """Start a new run with the message of this one, which has ended; see `Client.retry`."""
        return await self._client.retry(self.id)

    def _reader(self, view: View) -> _Reader:
        first, self._first = self._first, None
        if first is not None:
            first.view(view)
            return first
        wake = asyncio.Event()
        sent = self._sent
        feed = Feed(
            sent.thread, last=sent.after, log=sent.log, view=view, run=sent.run, run_seq=sent.seq, wake=wake.set
        )
        self._link.open(feed)
        return _Reader(self._link, feed, wake)


class _Reader:
    """Take what a feed has, and wait for more."""

    def __init__(self, link: Link, feed: Feed, wake: asyncio.Event) -> None:
        self._link = link
        self._feed = feed
        self._wake = wake
        # A run that nobody follows to its end must not hold a subscription. Collected at any time, even while the
        # session walks over its feeds: so the close waits for the loop's next turn.
        loop = asyncio.get_running_loop()
        weakref.finalize(self, _close_soon, loop, link, feed).atexit = False

    def view(self, view: View) -> None:
        """Leave deltas out from now on, those already queued too."""
        self._feed.change_view(view)

    async def items(self) -> AsyncGenerator[Event | Reset]:
        """Yield until the feed ends; the link watches that the server lives."""
        try:
            while True:
                # Arm before looking, or what comes in between waits for the next event.
                self._wake.clear()
                is_ended = self._feed.is_ended
                while (item := self._feed.take()) is not None:
                    yield item
                    self._link.drained(self._feed)
                if is_ended:
                    break
                await self._wake.wait()
            if self._feed.error is not None:
                raise self._feed.error
        finally:
            self._link.close(self._feed)


def _close_soon(loop: asyncio.AbstractEventLoop, link: Link, feed: Feed) -> None:
    if not loop.is_closed():
        loop.call_soon_threadsafe(link.close, feed)


@asynccontextmanager
async def connect(url: str, token: Token, *, timeout_s: float = 30.0, client: str = _CLIENT) -> AsyncIterator[Client]:
    """Connect to a server and stay connected until the block ends.

    ::

        async with runwire.connect("http://127.0.0.1:8000", token) as c:
            run = await c.send("What is Runwire?")
            async for event in run.events():
                print(event.type, event.data)

    Args:
        url: `http(s)://host[:port][/prefix]`.
        token: an API key or access token, or an async function that returns a valid one (such as `await sign_in(…)`).
        timeout_s: for the first welcome. Later losses are healed without end, with full jitter up to 15 s.
        client: `name/version`, for the server's log.

    Raises:
        Unavailable: nobody answered in time.
        Unauthenticated, Forbidden: not let in.
    """
    link, http = Link(url, token, client=client), Http(url, token)
    tasks = asyncio.TaskGroup()
    await tasks.__aenter__()
    task = tasks.create_task(link.run())
    try:
        welcome = await link.welcomed(timeout_s=timeout_s)
        yield Client(link, http, user=welcome.user)
    finally:
        # Not `async with`: an exception of the caller's block must come out as it is, not in a group.
        task.cancel()
        await tasks.__aexit__(None, None, None)
        await http.aclose()
