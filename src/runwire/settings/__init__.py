"""The settings: read once, at start, into one frozen value."""

from runwire.settings import shown
from runwire.settings.layers import ClientDefaults, Loaded, client_defaults, load, no_color
from runwire.settings.model import Settings
from runwire.settings.unsafe import RULES, Facts, Rule
from runwire.settings.values import hint

__all__ = [
    "RULES",
    "ClientDefaults",
    "Facts",
    "Loaded",
    "Rule",
    "Settings",
    "client_defaults",
    "hint",
    "load",
    "no_color",
    "shown",
]
