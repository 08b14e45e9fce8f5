"""Baselines, comparison, tuning, errors, explanation, merging, plans."""
