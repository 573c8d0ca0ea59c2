"""Fuzzing of every parser: `python -m tests.fuzz TARGET --seconds 60`."""
