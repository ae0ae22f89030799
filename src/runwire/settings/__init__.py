"""The settings: read once, at start, into one frozen value."""

from runwire.settings.layers import ClientDefaults, Loaded, client_defaults, load, no_color
from runwire.settings.model import Settings

__all__ = ["ClientDefaults", "Loaded", "Settings", "client_defaults", "load", "no_color"]
