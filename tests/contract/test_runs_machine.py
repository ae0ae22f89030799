"""Random lives of runs on every adapter: short ones in every test run, long ones in the campaign."""

from __future__ import annotations

import pytest
from hypothesis import HealthCheck, settings
from hypothesis.stateful import run_state_machine_as_test
from tests.contract.adapters import Adapter, MemoryAdapter, SqliteAdapter
from tests.contract.runs_machine import RunsMachine

CHECKS = [HealthCheck.too_slow, HealthCheck.filter_too_much, HealthCheck.data_too_large]


class MemoryMachine(RunsMachine):
    async def opened(self) -> Adapter:
        return MemoryAdapter()


class SqliteMachine(RunsMachine):
    async def opened(self) -> Adapter:
        return await SqliteAdapter(self.folder).open()


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


@pytest.mark.timeout(120)  # a machine may be busy; alone the slower one takes about 8 s
@pytest.mark.parametrize("machine", [MemoryMachine, SqliteMachine])
def test_runs_live_as_the_model_says(machine: type[RunsMachine]) -> None:
    live(machine, 60, 30)


@pytest.mark.campaign
@pytest.mark.timeout(1_800)
@pytest.mark.parametrize("machine", [MemoryMachine, SqliteMachine])
def test_campaign_of_runs(machine: type[RunsMachine]) -> None:
    live(machine, 500, 50)
