"""The core's own parts, shaped like those of any plugin."""
