"""Fit, predict, evaluate, save, export."""
