"""Every bench still runs, for a moment and without thresholds."""

import subprocess
import sys
from pathlib import Path

import pytest
from bench.results import BEGIN, END, Result, write_table

ROW = Result("socketmap", "rate / C responder", 0.65, 0.6, 0.8, least=True, figures="65 to 100/s")


@pytest.mark.timeout(300)  # half a minute on an idle machine, and it seldom is one
def test_benches_run() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--smoke"], capture_output=True, text=True, timeout=280, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "cached look-ups, 64 connections, depth 1: rate / C responder" in done.stdout
    assert "start to first answer" in done.stdout
    assert "a day of 40,000 sessions over 500 domains" in done.stdout
    assert "datagrams without loss" in done.stdout
    assert "times its rate" in done.stdout
    assert "of hello world" in done.stdout
    assert "a change is served after" in done.stdout


def test_the_table_keeps_what_was_not_measured_this_time(tmp_path: Path) -> None:
    page = tmp_path / "performance.md"
    page.write_text(f"above\n{BEGIN}\n{END}\nbelow\n", encoding="utf-8")
    other = Result("startup", "start / resolver", 1.2, 1.0, 0.6, least=False, figures="240 to 200 ms")
    write_table([ROW, other], page)
    write_table([Result("socketmap", "rate / C responder", 0.7, 0.6, 0.8, least=True, figures="70 to 100/s")], page)
    text = page.read_text(encoding="utf-8")
    assert text.startswith("above\n")
    assert text.endswith("below\n")
    assert "| `socketmap` | rate / C responder | **0.70** | ≥ 0.60 | ≥ 0.80 | 70 to 100/s |" in text
    assert "| `startup` | start / resolver | 1.20, missed | ≤ 1.00 | ≤ 0.60 | 240 to 200 ms |" in text
    assert "65 to" not in text
