"""A provider of models that is dead, hangs, is slow, refuses, breaks or is cut off, asked by agents of a real server.

    python -m pytest tests/e2e/test_provider_faults.py -v

Each test has a model of its own, so that all share one server. C1 to C8 are the cases of docs/reference.
"""

from __future__ import annotations

import asyncio
import time
from collections import Counter
from collections.abc import AsyncIterator, Awaitable, Callable
from pathlib import Path
from typing import Any, Final, Self

import httpx2
import pytest
import pytest_asyncio

import runwire
from runwire.client import Client
from runwire.errors import RunFailed
from runwire.testing.server import ServerProcess

AGENTS: Final = Path(__file__).resolve().parent.parent / "agents" / "faults.py"
ENOUGH: Final = 4  # calls, of which half open a circuit
OPEN_S: Final = 1.0  # at most
LEASE_S: Final = 1.0
BOUND_S: Final = 10.0  # for a run that fails; its agent waits for 0.7 s
TERMS: Final = f"""\
[breakers]
minimum_calls = {ENOUGH}
window_s = 600
open_s = {OPEN_S}
longest_open_s = {OPEN_S}
lease_s = {LEASE_S}
slow_first_s = 0.3
"""

pytestmark = [pytest.mark.timeout(120), pytest.mark.asyncio(loop_scope="module")]

Answer = Callable[[asyncio.StreamWriter], Awaitable[None]]
HEAD: Final = b"HTTP/1.1 200 OK\r\ntransfer-encoding: chunked\r\nconnection: close\r\n\r\n"
FIRST: Final = b"5\r\nfirst\r\n"
REST: Final = b"5\r\n last\r\n0\r\n\r\n"


async def well(writer: asyncio.StreamWriter) -> None:
    writer.write(HEAD + FIRST + REST)


async def hanging(_writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(60)


async def hanging_after_its_first_word(writer: asyncio.StreamWriter) -> None:
    writer.write(HEAD + FIRST)
    await writer.drain()
    await asyncio.sleep(60)


async def slow(writer: asyncio.StreamWriter) -> None:
    await asyncio.sleep(0.5)
    await well(writer)


async def cut(writer: asyncio.StreamWriter) -> None:
    writer.write(HEAD + FIRST)


def status(code: int, *lines: str) -> Answer:
    async def refuse(writer: asyncio.StreamWriter) -> None:
        more = "".join(f"{line}\r\n" for line in lines)
        writer.write(f"HTTP/1.1 {code} so\r\ncontent-length: 0\r\n{more}connection: close\r\n\r\n".encode())

    return refuse


class Provider:
    """Answers each model as it is told, and counts who asked."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}  # `well` if nothing is said
        self.next: dict[str, list[Answer]] = {}  # to the next requests
        self.asked: Counter[str] = Counter()
        self._was_asked = asyncio.Condition()
        self._tasks: set[asyncio.Task[None] | None] = set()

    async def __aenter__(self) -> Self:
        self._server = await asyncio.start_server(self._answer, "127.0.0.1", 0, backlog=1_000)
        self.url = f"http://127.0.0.1:{self._server.sockets[0].getsockname()[1]}"
        return self

    async def __aexit__(self, *_: object) -> None:
        self._server.close()
        for task in self._tasks:
            assert task
            task.cancel()

    async def until_asked(self, model: str, times: int) -> None:
        async with asyncio.timeout(BOUND_S), self._was_asked:
            await self._was_asked.wait_for(lambda: self.asked[model] >= times)

    async def _answer(self, reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        task = asyncio.current_task()
        self._tasks.add(task)
        try:
            head = await reader.readuntil(b"\r\n\r\n")
            model = head.split()[1].decode().strip("/")
            self.asked[model] += 1
            async with self._was_asked:
                self._was_asked.notify_all()
            coming = self.next.get(model)
            await (coming.pop(0) if coming else self.answers.get(model, well))(writer)
            await writer.drain()
        except (ConnectionError, asyncio.IncompleteReadError, asyncio.CancelledError):
            pass  # it hung up, or the test is over
        finally:
            self._tasks.discard(task)
            writer.close()


class House:
    """A server, its provider, and a person who also operates it."""

    def __init__(self, provider: Provider, client: Client, server: ServerProcess, key: str, folder: Path) -> None:
        self.server = server
        self.key = key
        self.provider = provider
        self.client = client
        self.folder = folder
        self._http = httpx2.AsyncClient(base_url=server.url, headers={"authorization": f"Bearer {key}"}, timeout=10)

    async def close(self) -> None:
        await self._http.aclose()

    async def outcome(self, message: str, *, agent: str = "asks") -> Any:
        """Return what a run comes to: its output, or what it failed of."""
        run = await self.client.send(message, agent=agent)
        try:
            async with asyncio.timeout(BOUND_S):
                return await run.result()
        except RunFailed as failed:
            return failed

    async def outcomes(self, message: str, count: int) -> list[Any]:
        async with asyncio.TaskGroup() as tasks:
            begun = [tasks.create_task(self.outcome(message)) for _ in range(count)]
        return [each.result() for each in begun]

    async def open(self, model: str) -> list[Any]:
        """Fail as often as opens the circuit of a model."""
        failed = await self.outcomes(model, ENOUGH)
        assert (await self.breaker(model))["state"] == "open", failed
        return failed

    async def back(self, message: str) -> Any:
        """Ask as a person does who keeps to what he is told, until it is answered."""
        async with asyncio.timeout(BOUND_S):
            while True:
                found = await self.outcome(message)
                if not isinstance(found, RunFailed):
                    return found
                await asyncio.sleep(found.retry_after_s or 0.1)

    async def breaker(self, model: str) -> dict[str, Any]:
        response = await self._http.get("/admin/v1/breakers")
        assert response.status_code == 200, response.text
        items: list[dict[str, Any]] = response.json()["items"]
        return next(each for each in items if (each["kind"], each["name"]) == ("model", f"test/{model}"))

    async def order(self, model: str, order: str) -> dict[str, Any]:
        response = await self._http.post(f"/admin/v1/breakers/model/test/{model}/{order}")
        assert response.status_code == 200, response.text
        done: dict[str, Any] = response.json()
        return done

    async def status(self, method: str, path: str, key: str) -> int:
        headers = {"authorization": f"Bearer {key}"}
        return (await self._http.request(method, f"/admin/v1/breakers{path}", headers=headers)).status_code

    async def figures(self) -> str:
        return (await self._http.get("/metrics")).text


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def house(tmp_path_factory: pytest.TempPathFactory) -> AsyncIterator[House]:
    folder = tmp_path_factory.mktemp("faults")
    (folder / "runwire.toml").write_text(TERMS, encoding="utf-8")
    async with Provider() as provider:
        (folder / "provider").write_text(provider.url, encoding="utf-8")
        (folder / "dead").write_text("http://127.0.0.1:9", encoding="utf-8")  # discard: nobody listens there
        async with ServerProcess(str(AGENTS), data_dir=folder / "data", cwd=folder) as server:
            key = await server.create_user("ada", role="admin")
            async with runwire.connect(server.url, key) as client:
                made = House(provider, client, server, key, folder)
                yield made
                await made.close()


FAULTS: Final[dict[str, Answer | None]] = {
    "dead": None,
    "hanging": hanging,
    "slow": slow,
    "broken": status(500),
    "cut": cut,
}


@pytest.mark.parametrize("model", FAULTS)
async def test_runs_fail_in_time_the_circuit_opens_others_go_on_and_it_recovers(house: House, model: str) -> None:
    fault = FAULTS[model]
    if fault:
        house.provider.answers[model] = fault
    began_s = time.monotonic()
    failed = await house.open(model)
    assert time.monotonic() - began_s < BOUND_S
    if model == "slow":  # it was answered, and so late that nobody else should wait for it
        assert failed == ["first last"] * ENOUGH
    else:
        assert {each.code for each in failed} == {"provider_unavailable"}
        assert {each.message.split(" (")[0] for each in failed} == {f"test/{model} gives no answer"}

    asked = house.provider.asked[model]
    refused = await house.outcome(model)
    assert refused.code == "circuit_open"
    assert 0 < refused.retry_after_s <= OPEN_S
    assert refused.message == f"test/{model} fails too often and is left alone; try again in 1 s."
    assert house.provider.asked[model] == asked
    assert await house.outcome("steady") == "first last"

    house.provider.answers[model] = well
    (house.folder / model).write_text(house.provider.url, encoding="utf-8")
    assert await house.back(model) == "first last"
    assert (await house.breaker(model))["state"] == "closed"
    changes = (house.folder / "data.log").read_text(encoding="utf-8")
    assert changes.count(f"test/{model}") >= 3, "each change is in the log"


async def test_c1_a_provider_that_hangs_after_its_first_word_fails_the_run_once(house: House) -> None:
    house.provider.answers["mute"] = hanging_after_its_first_word
    run = await house.client.send("mute", agent="asks")
    async with asyncio.timeout(BOUND_S):
        events = [event async for event in run.events() if isinstance(event, runwire.client.Event)]
    ends = [event for event in events if event.type == "agent_failed"]
    assert [(event.data["code"], event.data["retryable"]) for event in ends] == [("provider_unavailable", True)]
    assert events[-1] is ends[0]
    said = [event.data["content"] for event in events if event.type == "message_completed"]
    assert said == ["first"]
    assert (await house.breaker("mute"))["failures"] == 1


async def test_c2_of_many_who_wait_only_probes_ask_a_provider_that_always_fails(house: House) -> None:
    house.provider.answers["lost"] = status(500)
    await house.open("lost")
    began_s = time.monotonic()
    assert await house.outcome("lost 500", agent="storms") == 0
    took_s = time.monotonic() - began_s
    probes = house.provider.asked["lost"] - ENOUGH
    assert probes <= 1 + took_s / (OPEN_S / 2), f"{probes} probes in {took_s:.1f} s"
    refused = await house.outcomes("lost", 10)
    assert {each.code for each in refused} <= {"circuit_open", "provider_unavailable"}
    assert all(each.retry_after_s for each in refused if each.code == "circuit_open")


async def test_c3_a_probe_that_hangs_keeps_others_away_for_its_lease_and_no_longer(house: House) -> None:
    house.provider.answers["stuck"] = status(500)
    await house.open("stuck")
    house.provider.answers["stuck"] = well
    house.provider.next["stuck"] = [hanging]
    asked = house.provider.asked["stuck"]
    await asyncio.sleep((await house.outcome("stuck")).retry_after_s)
    probe = await house.client.send("stuck 1 60", agent="asks")  # waits for a minute
    await house.provider.until_asked("stuck", asked + 1)
    assert (await house.outcome("stuck")).code == "circuit_open"
    assert await house.back("stuck") == "first last"
    assert (await house.breaker("stuck"))["state"] == "closed"
    await probe.cancel()


async def test_c4_people_who_cancel_say_nothing_of_a_provider(house: House) -> None:
    house.provider.answers["left"] = hanging
    runs = [await house.client.send("left 1 60", agent="asks") for _ in range(3 * ENOUGH)]
    await house.provider.until_asked("left", ENOUGH)
    async with asyncio.timeout(BOUND_S):
        for run in runs:
            await run.cancel()
        for run in runs:
            last = [each async for each in run.events()][-1]
            assert isinstance(last, runwire.client.Event)
            assert last.type == "agent_cancelled"
    state = await house.breaker("left")
    assert (state["state"], state["calls"], state["failures"]) == ("closed", 0, 0)


async def test_c5_an_answer_to_what_was_asked_before_it_opened_comes_too_late_to_close_it(house: House) -> None:
    house.provider.answers["late"] = status(500)
    house.provider.next["late"] = [slow]
    asking = asyncio.create_task(house.outcome("late"))  # noqa: TID251 - awaited below
    await house.provider.until_asked("late", 1)
    await house.order("late", "force-open")
    before = await house.breaker("late")
    assert await asking == "first last"
    assert await house.breaker("late") == before


async def test_c6_a_provider_that_fails_every_second_time_is_left_alone(house: House) -> None:
    house.provider.answers["moody"] = status(500)
    found = []
    for number in range(ENOUGH):
        house.provider.next["moody"] = [well] if number % 2 else []
        found.append(await house.outcome("moody"))
    assert [isinstance(each, RunFailed) for each in found] == [True, False] * (ENOUGH // 2)
    assert (await house.breaker("moody"))["state"] in ("open", "closed")
    if (await house.breaker("moody"))["state"] == "closed":
        await house.outcome("moody")
    assert (await house.breaker("moody"))["state"] == "open"


async def test_c7_a_provider_that_has_enough_is_given_the_time_it_asks_for_and_its_circuit_stays(house: House) -> None:
    house.provider.answers["busy"] = status(429, "retry-after: 1")
    for failed in await house.outcomes("busy", 3 * ENOUGH):
        assert (failed.code, failed.retry_after_s) == ("provider_unavailable", 1.0)
        assert failed.message.endswith("; try again in 1 s.")
    assert (await house.breaker("busy"))["state"] == "closed"
    house.provider.answers["busy"] = well
    house.provider.next["busy"] = [status(429, "retry-after: 1")]
    began_s = time.monotonic()
    assert await house.outcome("busy 3") == "first last"
    assert time.monotonic() - began_s >= 1.0
    assert (await house.breaker("busy"))["failures"] == 0


async def test_c8_a_storm_of_retries_is_at_most_a_quarter_more(house: House) -> None:
    house.provider.answers["storm"] = status(500)
    assert (await house.order("storm", "disable"))["state"] == "disabled"  # else nobody would ask any more
    run = await house.client.send("storm 400", agent="storms")
    async with asyncio.timeout(60):
        assert await run.result() == 0
    assert 400 < house.provider.asked["storm"] <= 1.25 * 400


async def test_an_operator_opens_and_closes_a_circuit_and_all_see_it(house: House) -> None:
    assert await house.outcome("chosen") == "first last"
    assert (await house.order("chosen", "force-open"))["state"] == "forced_open"
    refused = await house.outcome("chosen")
    assert refused.code == "circuit_open"
    assert 'resilience_breaker_state{kind="model",name="test/chosen",state="forced_open"} 1.0' in await house.figures()
    assert (await house.order("chosen", "reset"))["state"] == "closed"
    assert await house.outcome("chosen") == "first last"
    rows = await house.server.cli("audit")
    assert '"breaker.force-open"' in rows
    assert '"model/test/chosen"' in rows


async def test_operators_look_and_only_administrators_give_orders(house: House) -> None:
    olga = await house.server.create_user("olga", role="operator")
    bob = await house.server.create_user("bob")
    order = "/model/test/some/force-open"
    assert [await house.status("GET", "", key) for key in (olga, bob)] == [200, 403]
    assert [await house.status("POST", order, key) for key in (olga, bob)] == [403, 403]
    assert await house.status("GET", "", "rw_nobody") == 401
    wrong = ("/planet/mars/reset", "/model/test/some/explode", f"/model/{'x' * 201}/reset")
    assert [await house.status("POST", path, house.key) for path in wrong] == [404, 404, 400]
    assert await house.outcome("some") == "first last"
