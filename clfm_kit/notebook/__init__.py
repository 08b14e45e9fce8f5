"""Widgets for Jupyter."""
