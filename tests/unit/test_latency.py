"""The interpreter's settings of a daemon, in a process of their own: they hold for a whole process."""

import subprocess
import sys

PROGRAM = """
import gc, sys
from stsguard.app.latency import prefer_latency
prefer_latency()
print(round(sys.getswitchinterval(), 6), gc.isenabled(), gc.get_threshold(), gc.get_freeze_count() > 100)
"""


def test_daemon_comes_soon_and_still_collects_garbage() -> None:
    done = subprocess.run([sys.executable, "-c", PROGRAM], capture_output=True, text=True, check=True, timeout=60)
    assert done.stdout == "0.0002 True (1000, 5, 20000) True\n"
