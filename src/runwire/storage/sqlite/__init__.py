"""The SQLite adapter: one process owns one file."""
