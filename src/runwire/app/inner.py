"""The way from one process of a deployment to another by HTTP."""

from __future__ import annotations

import ssl

import httpx2

__all__ = ["http_to"]


def http_to(url: str) -> httpx2.AsyncClient:
    """Return a client for what listens there; whoever enters it closes it."""
    # The system's certificates, which may have a company's own among them; nothing of the environment else, such as a
    # proxy for the internet.
    return httpx2.AsyncClient(base_url=url, verify=ssl.create_default_context(), trust_env=False)
