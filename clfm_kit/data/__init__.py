"""Texts, labels and tasks, from wherever they are."""
