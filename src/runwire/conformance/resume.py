"""The category `resume`: cut anywhere, come back with the position, and nothing is missing or shown twice.

Looks at what was followed over the cuts, then reads the thread again from every position, in both views.
"""

from __future__ import annotations

import asyncio
from collections.abc import Awaitable, Callable
from typing import Final

from runwire.conformance import judge
from runwire.conformance.case import Case
from runwire.conformance.conversation import require_welcome
from runwire.conformance.cuts import Followed, Scene, answers, subscribe
from runwire.conformance.report import Evidence
from runwire.conformance.wire import Silence, Wire, WireHttp
from runwire.protocol import frames
from runwire.protocol.events import View
from runwire.protocol.frames import Event

__all__ = ["CASES"]

_PING_S: Final = 5.0  # a check must not wait longer for one frame
_POSITIONS: Final = 64  # at most, per view


def _followed(which: Callable[[Scene], Followed]) -> Callable[[Scene], list[Evidence]]:
    """Make a look at a run that was cut: every connection goes on exactly after its position."""

    def look(scene: Scene) -> list[Evidence]:
        followed = which(scene)
        found: list[Evidence] = []
        for position, piece in followed.pieces:
            found += _goes_on(position, piece)
        if not found and followed.fault:
            last = followed.events[-1].seq if followed.events else None
            found.append(Evidence(expected="the run's end, over all cuts", seen=followed.fault, position=last))
        if not found and followed.sent is None:
            found.append(Evidence(expected="an ok reply to send", seen=scene.fault or "none"))
        return found

    return look


def _goes_on(position: int, piece: list[Event]) -> list[Evidence]:
    """Events after a position: none at or before it, none missing, none twice, in order."""
    early = [event for event in piece if event.seq <= position]
    if early:
        said = f"seq {early[0].seq} again, after a subscription from {position}"
        shown = tuple(judge.show(event) for event in early[:3])
        return [Evidence(expected=f"only events after {position}", seen=said, position=early[0].seq, frames=shown)]
    return judge.once(piece) + judge.ordered(piece) + judge.no_hole(piece, after=position, exact=False)


def _replays(scene: Scene) -> list[Evidence]:
    found: list[Evidence] = []
    for view in ("all", "lifecycle"):
        found += _goes_on(0, scene.whole.get(view, []))
    if "lifecycle" not in scene.whole:
        found.append(Evidence(expected="the thread from the start", seen=scene.fault or "nothing"))
    return found


def _replay_is_live(scene: Scene) -> list[Evidence]:
    live = scene.comparable(judge.sorted_once([*scene.every.events, *scene.some.events]))
    whole = scene.comparable(scene.whole["all"])
    return judge.difference(live, whole, names=("the stream, over all cuts,", "the replay from 0"))


def _views_agree(scene: Scene) -> list[Evidence]:
    expected = judge.without_deltas(scene.whole["all"])
    return judge.difference(expected, scene.whole["lifecycle"], names=("the view all without deltas", "lifecycle"))


def _every_position(view: View) -> Callable[[Scene], Awaitable[list[Evidence]]]:
    async def look(scene: Scene) -> list[Evidence]:
        whole = scene.whole[view]
        async with Wire.open(scene.subject.url, scene.subject.token) as wire:
            await require_welcome(wire, scene.subject)
            for position in _positions(whole):
                if found := await _resume_at(scene, wire, position, view):
                    return found
        return []

    return look


def _positions(events: list[Event]) -> list[int]:
    """Return 0 and every position, or so many of them, evenly; always the last ones."""
    all_ = [0, *(event.seq for event in events)]
    step = max(1, -(-len(all_) // _POSITIONS))
    return sorted({*all_[::step], *all_[-3:]})


async def _resume_at(scene: Scene, wire: Wire, position: int, view: View) -> list[Evidence]:
    """Subscribe after a position, read what comes, unsubscribe: exactly the rest, and nothing else."""
    expected = [event for event in scene.whole[view] if event.seq > position]
    begin = len(wire.seen)
    await subscribe(wire, scene.subject, scene.thread, position, log=scene.log, view=view)
    fault = ""
    if expected:
        last = expected[-1].seq
        try:
            await wire.until(lambda f: isinstance(f, Event) and f.seq >= last, timeout_s=scene.subject.timeout_s)
        except Silence as error:
            fault = error.message
    number = wire.new_id()
    await wire.send(frames.Unsubscribe(id=number, thread=scene.thread))
    await wire.until(answers(number), timeout_s=scene.subject.timeout_s)
    came = [seen.frame for seen in wire.seen[begin:] if isinstance(seen.frame, Event)]
    del wire.seen[:]  # judged; a long history times many positions must not pile up
    found = _goes_on(position, came)
    found = found or judge.difference(
        scene.comparable(expected), scene.comparable(came), names=("the replay from 0", f"a resume after {position}")
    )
    if not found and fault and expected:
        found = [Evidence(expected=f"{len(expected)} events after {position}", seen=fault, position=position)]
    return found


def _resets(make: Callable[[Scene], tuple[int, str]], what: str) -> Callable[[Scene], Awaitable[list[Evidence]]]:
    """Make a look at a position that cannot be resumed: `reset`, then ordinary events from its `from`."""

    async def look(scene: Scene) -> list[Evidence]:
        after, log = make(scene)
        async with Wire.open(scene.subject.url, scene.subject.token) as wire:
            await require_welcome(wire, scene.subject)
            await subscribe(wire, scene.subject, scene.thread, after, log=log)
            begin = len(wire.seen)
            try:
                seen = await wire.until(
                    lambda f: isinstance(f, frames.Reset | Event), timeout_s=min(5.0, scene.subject.timeout_s)
                )
            except Silence as error:
                return [Evidence(expected=f"reset, for {what}", seen=error.message, position=after)]
            reset = seen.frame
            if not isinstance(reset, frames.Reset) or reset.reason != "log_changed":
                return [
                    Evidence(expected="reset with log_changed", seen="this", position=after, frames=(seen.clipped,))
                ]
            expected = [event for event in scene.whole["all"] if event.seq > reset.from_]
            if expected:
                last = expected[-1].seq
                await wire.until(lambda f: isinstance(f, Event) and f.seq >= last, timeout_s=scene.subject.timeout_s)
            came = [seen.frame for seen in wire.seen[begin:] if isinstance(seen.frame, Event)]
        return _goes_on(reset.from_, came) or judge.difference(
            scene.comparable(expected), scene.comparable(came), names=("the replay from 0", f"what follows the {what}")
        )

    return look


async def _sse_resumes(scene: Scene) -> list[Evidence]:
    assert scene.some.sent
    path = f"/v1/threads/{scene.thread}/events?view=all&until={scene.some.sent.run}"
    whole = scene.whole["all"]
    async with WireHttp(scene.subject.url, scene.subject.token, timeout_s=min(15.0, scene.subject.timeout_s)) as http:
        for position in sorted({whole[0].seq, whole[len(whole) // 2].seq, whole[-2].seq}):
            at = f"{scene.log}:{position}"
            status, text = await http.get(path, Accept="text/event-stream", Last_Event_ID=at)
            events, found = judge.events_of_sse(text) if status == 200 else ([], [])
            if status != 200:
                found = [
                    Evidence(
                        expected="200 and the rest of the stream", seen=f"{status}: {text[:300]}", position=position
                    )
                ]
            expected = [event for event in whole if event.seq > position]
            found = (
                found
                or _goes_on(position, events)
                or judge.difference(
                    scene.comparable(expected),
                    scene.comparable(events),
                    names=("the replay from 0", f"Last-Event-ID {at}"),
                )
            )
            if found:
                return found
        at = f"{scene.log}:{whole[-1].seq}"
        status, text = await http.get(path, Accept="text/event-stream", Last_Event_ID=at)
    if status != 204:
        return [
            Evidence(expected="204 once the run's end was seen", seen=f"{status}: {text[:300]}", position=whole[-1].seq)
        ]
    return []


async def _position_frame(scene: Scene) -> list[Evidence]:
    """Wait for the `position` that comes with a ping, in both views at once, each on its own socket."""
    found: list[Evidence] = []

    async def watch(view: View) -> None:
        async with Wire.open(scene.subject.url, scene.subject.token) as wire:
            welcome = await require_welcome(wire, scene.subject)
            await subscribe(wire, scene.subject, scene.thread, 0, log=None, view=view)
            position = await wire.until(
                lambda f: isinstance(f, frames.Position), timeout_s=welcome.ping_s + welcome.pong_s
            )
            assert isinstance(position.frame, frames.Position)
            came = [seen.frame.seq for seen in wire.seen if isinstance(seen.frame, Event)]
            if position.frame.seq != (came[-1] if came else 0):
                said = f"position {position.frame.seq} after the event {came[-1] if came else None} in the view {view}"
                wanted = "the last event that was written"
                found.append(
                    Evidence(expected=wanted, seen=said, position=position.frame.seq, frames=(position.clipped,))
                )

    async with asyncio.TaskGroup() as tasks:
        for view in ("all", "lifecycle"):
            tasks.create_task(watch(view))
    return found


_FOLLOWED: Final = ("cut_at_every_event", "cut_at_random", "replay_from_0")
_REPLAYED: Final = ("replay_from_0", "replay_is_live")

CASES: Final[tuple[Case[Scene], ...]] = (
    Case(
        name="cut_at_every_event",
        promise="A socket that is cut after each event goes on exactly there",
        look=_followed(lambda scene: scene.every),
    ),
    Case(
        name="cut_at_random",
        promise="A socket that is cut at random goes on exactly there",
        look=_followed(lambda scene: scene.some),
        needs=("cut_at_every_event",),
    ),
    Case(
        name="replay_from_0",
        promise="The whole thread can be read again, in both views, without a hole",
        look=_replays,
        needs=("cut_at_every_event", "cut_at_random"),
    ),
    Case(name="replay_is_live", promise="A replay is what was seen live", look=_replay_is_live, needs=_FOLLOWED),
    Case(
        name="views_agree",
        promise="The view lifecycle is the view all without deltas",
        look=_views_agree,
        needs=_REPLAYED,
    ),
    Case(
        name="every_position",
        promise="From every position the rest comes, and nothing else",
        look=_every_position("all"),
        needs=_REPLAYED,
    ),
    Case(
        name="every_position_lifecycle",
        promise="From every position of the view lifecycle the rest comes, and nothing else",
        look=_every_position("lifecycle"),
        needs=_REPLAYED,
    ),
    Case(
        name="beyond_the_end",
        promise="A position that the log never reached is answered with reset",
        look=_resets(lambda scene: (scene.whole["all"][-1].seq + 1000, scene.log), "position beyond the head"),
        needs=_REPLAYED,
    ),
    Case(
        name="another_log",
        promise="A position of another history is answered with reset",
        look=_resets(lambda scene: (scene.whole["all"][0].seq, "another"), "position of another log"),
        needs=_REPLAYED,
    ),
    Case(
        name="sse_resumes",
        promise="SSE goes on after Last-Event-ID and ends with 204",
        look=_sse_resumes,
        needs=_REPLAYED,
    ),
    Case(
        name="position_frame",
        promise="With each ping comes the position of the last event written",
        look=_position_frame,
        needs=_REPLAYED,
        applies=lambda s: (
            None if s.ping_s <= _PING_S else f"it comes with the ping, every {s.ping_s:g} s: too long here"
        ),
    ),
)
