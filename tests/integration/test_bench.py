"""Every bench still runs, for a moment and without thresholds."""

import subprocess
import sys


def test_benches_run() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "bench", "--smoke"], capture_output=True, text=True, timeout=100, check=False
    )
    assert done.returncode == 0, done.stderr
    assert "of reference" in done.stdout
    assert "bare uvloop server" in done.stdout
    assert "a day of 40,000 sessions over 500 domains" in done.stdout
    assert "datagrams without loss" in done.stdout
    assert "times its rate" in done.stdout
    assert "of hello world" in done.stdout
    assert "a change is served after" in done.stdout
