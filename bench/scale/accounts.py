"""What one process needs to know all accounts: `python -m bench.scale.accounts URL` prints bytes and µs of CPU."""

from __future__ import annotations

import asyncio
import gc
import json
import os
import sys
import time

from bench import cpu
from runwire.auth.view import RETAIN_S, AuthView
from runwire.storage.open import open_storage


async def _main(url: str) -> None:
    storage = await open_storage(url)
    try:
        view = AuthView()
        gc.collect()
        before, cpu_s, wall_s = cpu.pss_bytes(os.getpid()), time.process_time(), time.monotonic()
        view.load(await storage.auth.snapshot(revoked_within_s=RETAIN_S), began_s=0.0)
        took_s, spent_s = time.monotonic() - wall_s, time.process_time() - cpu_s
        gc.collect()
        grown = cpu.pss_bytes(os.getpid()) - before
        print(json.dumps({"bytes": grown, "cpu_ms": spent_s * 1e3, "wall_ms": took_s * 1e3}))
    finally:
        await storage.close()


if __name__ == "__main__":
    asyncio.run(_main(sys.argv[1]))
