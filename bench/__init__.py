"""Figures, as ratios against baselines of the same run. Never a gate of the tests."""
