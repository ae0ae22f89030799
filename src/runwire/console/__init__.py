from runwire.console.app import make_console_app

__all__ = ["make_console_app"]
