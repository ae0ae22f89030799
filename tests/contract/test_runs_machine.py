"""Random lives of runs on every adapter: short ones in every test run, long ones in the campaign."""

from __future__ import annotations

import asyncio
import shutil
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import rule, run_state_machine_as_test
from tests.contract.adapters import Adapter, MemoryAdapter, PostgresAdapter, SqliteAdapter
from tests.contract.mutants_of_memory import MUTANTS, loaded
from tests.contract.runs_machine import RunsMachine
from tests.histories.mutants import Mutant
from tests.postgres import PostgresServer

from runwire.errors import Conflict, Unavailable
from runwire.storage.migrations.upgrade import upgrade

CHECKS = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]
HEAL_S = 10  # how soon a database that was killed and started answers again


class MemoryMachine(RunsMachine):
    async def opened(self) -> Adapter:
        return MemoryAdapter()


class SqliteMachine(RunsMachine):
    template: ClassVar[Path]  # an empty file with its tables: making them takes longer than a life

    async def opened(self) -> Adapter:
        path = self.folder / "owner0" / "runwire.db"
        path.parent.mkdir(mode=0o700)
        shutil.copy(self.template, path)
        return await SqliteAdapter(self.folder).open()


class PostgresMachine(RunsMachine):
    server: ClassVar[PostgresServer]

    async def opened(self) -> Adapter:
        return await PostgresAdapter(self.server).open()


class RestartingMachine(PostgresMachine):
    """The database itself is killed, again and again; its workers go on."""

    @rule()
    def kill_the_database(self) -> None:
        self.server.kill()
        self.server.restart()
        self.do(self.healed())

    async def healed(self) -> None:
        """Wait as everybody does whose connections are gone."""
        async with asyncio.timeout(HEAL_S):
            for _ in range(10_000):
                try:
                    await self.storage.ping()
                except Unavailable:
                    await asyncio.sleep(0.02)
                else:
                    return


def live(machine: type[RunsMachine], lives: int, steps: int) -> None:
    run_state_machine_as_test(
        machine,
        settings=settings(
            max_examples=lives,
            stateful_step_count=steps,
            deadline=None,
            database=None,
            suppress_health_check=CHECKS,
        ),
    )


@pytest.fixture(scope="module")
def sqlite_machine(tmp_path_factory: pytest.TempPathFactory) -> type[RunsMachine]:
    SqliteMachine.template = tmp_path_factory.mktemp("template") / "runwire.db"
    upgrade(SqliteMachine.template)
    return SqliteMachine


@pytest.fixture
def postgres_machine(postgres_server: PostgresServer) -> type[RunsMachine]:
    PostgresMachine.server = postgres_server
    return PostgresMachine


@pytest.fixture
def restarting_machine(tmp_path: Path) -> Iterator[type[RunsMachine]]:
    RestartingMachine.server = PostgresServer.start(tmp_path)
    yield RestartingMachine
    RestartingMachine.server.kill()
    RestartingMachine.server.remove()


# A machine may be busy; alone each of these takes a few seconds.


@pytest.mark.timeout(120)
def test_runs_live_as_the_model_says_on_memory() -> None:
    live(MemoryMachine, 25, 30)


@pytest.mark.timeout(120)
def test_runs_live_as_the_model_says_on_sqlite(sqlite_machine: type[RunsMachine]) -> None:
    live(sqlite_machine, 20, 30)


@pytest.mark.timeout(120)
def test_runs_live_as_the_model_says_on_postgres(postgres_machine: type[RunsMachine]) -> None:
    live(postgres_machine, 8, 30)


@pytest.mark.campaign
@pytest.mark.timeout(3_600)
def test_campaign_on_memory() -> None:
    live(MemoryMachine, 500, 50)


@pytest.mark.campaign
@pytest.mark.timeout(3_600)
def test_campaign_on_sqlite(sqlite_machine: type[RunsMachine]) -> None:
    live(sqlite_machine, 500, 50)


@pytest.mark.campaign
@pytest.mark.timeout(3_600)
def test_campaign_on_postgres(postgres_machine: type[RunsMachine]) -> None:
    live(postgres_machine, 80, 50)


@pytest.mark.campaign
@pytest.mark.timeout(3_600)
def test_campaign_on_a_postgres_that_is_killed(restarting_machine: type[RunsMachine]) -> None:
    live(restarting_machine, 20, 50)


def is_killed(mutant: Mutant) -> bool:
    """Return whether the model sees what a broken database does: always the same lives, none made shorter."""
    with loaded(mutant) as storage:

        class Broken(MemoryAdapter):
            def __init__(self) -> None:
                self.storage = storage()

        class BrokenMachine(RunsMachine):
            async def opened(self) -> Adapter:
                return Broken()

        try:
            run_state_machine_as_test(
                BrokenMachine,
                settings=settings(
                    max_examples=200,
                    stateful_step_count=50,
                    deadline=None,
                    database=None,
                    derandomize=True,
                    phases=[Phase.generate],
                    report_multiple_bugs=False,
                    suppress_health_check=CHECKS,
                ),
            )
        except (AssertionError, Conflict):
            return True
    return False


@pytest.mark.timeout(120)
@pytest.mark.parametrize("mutant", MUTANTS, ids=lambda mutant: mutant.name.replace(" ", "_"))
def test_the_lives_kill_a_database_that(mutant: Mutant) -> None:
    assert is_killed(mutant)
