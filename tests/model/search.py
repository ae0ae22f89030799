"""A search through every state: breadth first, so that what it finds is as short as can be."""

from __future__ import annotations

from collections import deque
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass

from tests.model.promises import Broken, is_good
from tests.model.scenarios import Scenario
from tests.model.state import State, swapped
from tests.model.world import World

__all__ = ["Found", "search"]


@dataclass(frozen=True, slots=True)
class Found:
    """What a search has found."""

    states: int
    steps: int  # between them
    broken: str = ""  # the promise; empty: all hold
    trace: tuple[str, ...] = ()  # how it comes to that
    asked: frozenset[str] = frozenset()  # for which rules anybody asked

    def __str__(self) -> str:
        lines = [f"{number}. {label}" for number, label in enumerate(self.trace, 1)]
        return "\n".join([*lines, f"=> {self.broken or 'all promises hold'} ({self.states} states)"])


def search(scenario: Scenario, without: str = "", *, limit: int = 2_000_000) -> Found:
    """Look at every state of a scenario until a promise is broken.

    Args:
        scenario: what is looked at.
        without: the rule that is left out; empty: none.
        limit: of states; more are an error, since then nothing is proved.
    """
    world = World(scenario, without)
    first = _canonical(scenario.begin())
    came_from: dict[State, State | None] = {first: None}
    back: dict[State, list[State]] = {}  # along what needs neither people nor faults nor repairs
    queue = deque([first])
    moving: set[State] = set()  # in which somebody has something to do
    steps = 0
    while queue:
        state = queue.popleft()
        try:
            for _, kind, after in world.successors(state):
                steps += 1
                canonical = _canonical(after)
                if kind == "work":
                    moving.add(state)
                if kind in ("work", "time"):
                    back.setdefault(canonical, []).append(state)
                if canonical not in came_from:
                    came_from[canonical] = state
                    queue.append(canonical)
        except Broken as broken:
            return Found(len(came_from), steps, str(broken), tuple(_trace(world, came_from, state, str(broken))))
        if len(came_from) > limit:
            raise RuntimeError(f"{scenario.name}: more than {limit} states")
    stuck = _first_stuck(scenario, came_from, back, moving)
    if stuck is not None:
        what = "a run never ends, although a worker is well"
        return Found(len(came_from), steps, what, tuple(_trace(world, came_from, stuck, "")))
    return Found(len(came_from), steps, asked=frozenset(world.database.asked))


def _canonical(state: State) -> State:
    """Return the same state for both ways to name the workers."""
    first, second = state.workers
    if first.mode != second.mode:
        return state if first.mode < second.mode else swapped(state)
    if first.held != second.held:
        return state if first.held < second.held else swapped(state)
    return min(state, swapped(state))


def _first_stuck(
    scenario: Scenario, states: Iterable[State], back: Mapping[State, Sequence[State]], moving: Collection[State]
) -> State | None:
    """Return the first state from which, left alone, no good one is reached; rather one in which all stand still."""
    reached = {state for state in states if is_good(scenario, state)}
    queue = deque(reached)
    while queue:
        for before in back.get(queue.popleft(), ()):
            if before not in reached:
                reached.add(before)
                queue.append(before)
    first: State | None = None
    for state in states:  # in the order of their distance
        has_worker = state.is_up and any(worker.mode == "up" for worker in state.workers)
        if has_worker and state not in reached:
            if state not in moving:
                return state
            first = first or state
    return first


def _trace(world: World, came_from: dict[State, State | None], last: State, broken: str) -> Iterator[str]:
    """Tell a history with the names that the workers had in its beginning."""
    path: list[State] = []
    at: State | None = last
    while at is not None:
        path.append(at)
        at = came_from[at]
    path.reverse()
    state = world.scenario.begin()
    for wanted in path[1:]:
        for label, _, after in world.successors(state):
            if _canonical(after) == wanted:
                state = after
                yield label
                break
    if broken:
        try:
            list(world.successors(state))
        except Broken:
            yield world.doing
