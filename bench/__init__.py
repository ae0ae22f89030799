"""Figures, as ratios against a baseline of the same run. Never a gate of the tests."""
