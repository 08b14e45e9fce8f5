"""How good answers are, how sure, and whether a difference is more than luck."""
