"""What each role alone shows at `/metrics` is what the page of the reference says, with its type and labels."""

from __future__ import annotations

import re
from typing import Final

import httpx2
import pytest
from prometheus_client.parser import text_string_to_metric_families
from tests.cluster.deployment import Cluster, RoleProcess

from runwire.guide import docs_root

pytestmark = pytest.mark.timeout(120)

# Of prometheus_client, as the head of the page says.
FOREIGN: Final = re.compile(r"process_(cpu_seconds|(virtual|resident)_memory_bytes|start_time_seconds|(open|max)_fds)")
ROOMS: Final = {
    "gateway": {"gateway", "resilience", "process", "runwire"},
    "worker": {"runtime", "resilience", "process", "runwire"},
    "auth": {"resilience", "process", "runwire"},
}
ALWAYS: Final = {
    "gateway": {"gateway_listeners", "gateway_closes_total", "process_self_check_seconds", "process_tasks"},
    "worker": {"runtime_leases_lost_total", "runtime_claimed_runs_total", "process_agent_tasks"},
    "auth": {"process_tasks", "process_allocated_blocks"},
}


def documented() -> dict[str, tuple[str, frozenset[str]]]:
    """Return figure → (type, labels), of the page."""
    page = (docs_root() / "reference" / "metrics.md").read_text(encoding="utf-8")
    rows = re.findall(r"^\| `(\w+)` \| (counter|gauge|histogram) \| (.*?) \|", page, flags=re.MULTILINE)
    return {name: (kind, frozenset(re.findall(r"`(\w+)`", labels))) for name, kind, labels in rows}


async def scraped(process: RoleProcess) -> dict[str, tuple[str, frozenset[str]]]:
    async with httpx2.AsyncClient(timeout=10) as http:
        text = (await http.get(f"{process.url}/metrics")).text
    found = {}
    for family in text_string_to_metric_families(text):
        name = f"{family.name}_total" if family.type == "counter" else family.name
        labels = frozenset(label for sample in family.samples for label in sample.labels) - {"le"}
        if not FOREIGN.match(name) and not name.endswith("_created"):
            found[name] = (family.type, labels)
    return found


@pytest.mark.parametrize("role", ["gateway", "worker", "auth"])
async def test_a_role_alone_shows_what_the_page_says(role: str, cluster: Cluster) -> None:
    (process, *_) = [one for one in cluster.processes if one.roles == (role,)]
    page, found = documented(), await scraped(process)
    assert ALWAYS[role] <= found.keys()
    for name, (kind, labels) in found.items():
        assert name in page, f"{role} shows {name}, which docs/reference/metrics.md does not have"
        assert kind == page[name][0], name
        assert labels <= page[name][1], name
        assert name.partition("_")[0] in ROOMS[role], f"{role} shows {name}, of another role"
