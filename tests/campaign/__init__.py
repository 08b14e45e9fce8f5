"""Hundreds of ways in which a file, folder, setting or argument can be wrong: each ends in a sentence, or right."""
