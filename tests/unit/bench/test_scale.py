"""The page on sizes: its lines, its arithmetic, and that it is what the program writes."""

from __future__ import annotations

import dataclasses

import pytest
from bench.figures import Faulty
from bench.scale import fit, page
from bench.scale.arithmetic import ASSUMED, STEPS, TARGET, Costs, capacities, cells, costs, least, per_process

_ROLES = ("gateway", "worker", "postgresql", "redis", "auth", "hearer")


def _costs(**other: float) -> Costs:
    each = dict.fromkeys(_ROLES, 30.0)
    plain = dict.fromkeys((field.name for field in dataclasses.fields(Costs)), 1.0) | other
    return Costs(**plain | {"event": each, "run": each, "connection": each})  # type: ignore[arg-type]


def test_the_page_is_made_of_the_figures_of_the_last_run() -> None:
    assert page.PAGE.read_text(encoding="utf-8") == page.render(fit.load()), "python -m bench.scale writes it anew"


def test_a_line_is_found_with_its_base_and_how_far_points_are_off() -> None:
    line = fit.fit(fit.Measured(name="x", per="y", unit="z", sizes=[1, 2, 4], values=[12, 14, 18]))
    assert (line.base, line.slope) == pytest.approx((10, 2))
    assert line.residual == pytest.approx(0, abs=1e-9)
    bent = fit.fit(fit.Measured(name="x", per="y", unit="z", sizes=[0, 1, 2], values=[0, 3, 0]))
    assert (bent.base, bent.slope, bent.residual) == pytest.approx((1, 0, 2 / 3))


def test_two_sizes_are_no_line() -> None:
    with pytest.raises(Faulty, match="three sizes"):
        fit.fit(fit.Measured(name="x", per="y", unit="z", sizes=[1, 2, 2], values=[1, 2, 3]))


def test_what_a_process_carries_is_its_core_by_what_a_person_costs() -> None:
    # 30 µs for each of 200 events and for the run, every 600 s, and 1 µs per second of pings: 11.05 µs.
    found = per_process(_costs())
    assert found["gateway: CPU"] == pytest.approx(600_000 / 11.05)
    assert found["worker: CPU"] == pytest.approx(600_000 / 10.05)
    assert found["worker: runs at a time (`max_runs`)"] == pytest.approx(6_000)
    assert per_process(_costs(), is_shared=True)["gateway: CPU"] == pytest.approx(300_000 / 11.05)


def test_more_databases_carry_more_commits_but_no_more_connections_and_accounts() -> None:
    one, eight = (capacities(STEPS[n], _costs()) for n in (2, 3))
    for name in ("PostgreSQL: CPU", "PostgreSQL: WAL", "PostgreSQL: commits"):
        assert eight[name] == pytest.approx(8 * one[name])
    for name in set(one) - {"PostgreSQL: CPU", "PostgreSQL: WAL", "PostgreSQL: commits"}:
        assert eight[name] == one[name], name


def test_accounts_end_a_deployment_by_memory_or_by_the_time_to_read_them() -> None:
    found = capacities(STEPS[2], _costs(account_bytes=400.0, account_load=5.0))
    assert found["accounts: memory of each process"] == pytest.approx(4e9 / 400 / 3)
    assert found["accounts: reading them at a start"] == pytest.approx(10e6 / 5 / 3)


def test_deployments_are_as_many_as_the_first_limit_asks_for() -> None:
    cost = _costs()
    size = least(capacities(STEPS[2], cost))[1]
    found = cells(cost)
    assert (found["deployments"] - 1) * size < TARGET <= found["deployments"] * size
    # A gateway has 10,000 sockets at most, a worker 100 runs of 10 s.
    assert found["gateway processes in each"] >= found["people in each"] / ASSUMED.sockets
    assert found["worker processes in each"] >= found["people in each"] / 6_000


def test_every_limit_has_a_way_on_and_every_figure_a_line() -> None:
    run = fit.load()
    for step in STEPS:
        assert set(capacities(step, costs(run))) <= set(page._THEN)
    assert all(fit.fit(one) for one in run.measured.values())
