"""Weights that train, on `transformers.Trainer`."""
