"""One file per measure; each has `measure(stand) -> Section`."""
