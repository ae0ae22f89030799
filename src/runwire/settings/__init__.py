"""The settings: read once, at start, into one frozen value."""

from runwire.settings import shown
from runwire.settings.layers import (
    ClientDefaults,
    Judged,
    Loaded,
    Supervision,
    client_defaults,
    judge,
    load,
    no_color,
    supervision,
)
from runwire.settings.model import Settings
from runwire.settings.unsafe import RULES, Facts, Rule
from runwire.settings.values import hint

__all__ = [
    "RULES",
    "ClientDefaults",
    "Facts",
    "Judged",
    "Loaded",
    "Rule",
    "Settings",
    "Supervision",
    "client_defaults",
    "hint",
    "judge",
    "load",
    "no_color",
    "shown",
    "supervision",
]
