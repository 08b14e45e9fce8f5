"""Hundreds of ways in which a file, a folder, a setting or an argument can be wrong: each ends in a sentence, or right."""
