"""The servers that are measured: Runwire (R) and what it is measured against (N, J, L, U)."""
