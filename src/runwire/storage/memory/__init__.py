"""The adapter without a disk: for tests and examples; it passes the same contract suite."""
