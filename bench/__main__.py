"""`python -m bench [NAME…]`: all benches, or those named; `--smoke` for a run of seconds.

Whatever was measured goes into the table of docs/performance.md, but for a smoke run.
"""

import importlib
import os
import sys
import tempfile
from pathlib import Path

from bench import results, world

BENCHES = (
    *("socketmap", "discovery", "memory", "startup", "refresh"),
    *("policy_host", "maillog", "reports", "sessions", "intake", "milter"),
)


def main(arguments: list[str]) -> int:
    """Run the benches named, all without a name."""
    smoke = "--smoke" in arguments
    names = [argument for argument in arguments if not argument.startswith("-")] or list(BENCHES)
    unknown = [name for name in names if name not in BENCHES]
    if unknown:
        print(f"no such bench: {', '.join(unknown)}; there are {', '.join(BENCHES)}", file=sys.stderr)
        return 2
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "results"
        first = results.FILE not in os.environ and world.INSIDE not in os.environ
        if first and not smoke:
            os.environ[results.FILE] = str(file)
        for name in names:
            importlib.import_module(f"bench.{name}").main(smoke=smoke)
            if file.exists():
                results.write_table(results.read(file))
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
