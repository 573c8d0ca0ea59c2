"""CSV of received reports: what strangers wrote is no formula, however a spreadsheet splits a row."""

import pytest

from stsguard.cli.received_export import csv_text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain; text", "plain; text"),
        ("=1+1", "'=1+1"),
        (" @x", "' @x"),
        ("x;=1+1", "x;'=1+1"),
        ("x; -1", "x; '-1"),
        ('x;"=1+1', "x;\"'=1+1"),
        ("x;;@a;+b", "x;;'@a;'+b"),
        ("a=b;c=d", "a=b;c=d"),
    ],
)
def test_no_cell_is_a_formula_where_rows_are_split_at_semicolons(text: str, shown: str) -> None:
    assert csv_text(text) == shown
