"""Measurements: ratios against something that runs in the same minute, with the command that made them."""
