"""`python -m bench [NAME…]`: all benches, or those named; `--smoke` for a run of seconds.

Whatever was measured goes into the table of docs/performance.md, but for a smoke run.
"""

import compileall
import importlib
import os
import subprocess
import sys
import tempfile
from pathlib import Path

import stsguard
from bench import results, world

BENCHES = (
    *("socketmap", "discovery", "memory", "startup", "refresh"),
    *("policy_host", "maillog", "reports", "sessions", "intake", "milter"),
)


def main(arguments: list[str]) -> int:
    """Run the benches named, all without a name; 1 where one has failed."""
    smoke = "--smoke" in arguments
    names = [argument for argument in arguments if not argument.startswith("-")] or list(BENCHES)
    unknown = [name for name in names if name not in BENCHES]
    if unknown:
        print(f"no such bench: {', '.join(unknown)}; there are {', '.join(BENCHES)}", file=sys.stderr)
        return 2
    if len(names) > 1:
        return _run_apart(names, [argument for argument in arguments if argument.startswith("-")])
    # Daemons that compile what they load take more memory, and time to start.
    compileall.compile_dir(Path(stsguard.__file__).parent, quiet=1)
    with tempfile.TemporaryDirectory() as directory:
        file = Path(directory) / "results"
        first = results.FILE not in os.environ and world.INSIDE not in os.environ
        if first and not smoke:
            os.environ[results.FILE] = str(file)
        importlib.import_module(f"bench.{names[0]}").main(smoke=smoke)
        if file.exists():
            results.write_table(results.read(file))
    return 0


def _run_apart(names: list[str], options: list[str]) -> int:
    """Each in a process of its own: what one has loaded, or its children took, is nothing to the next."""
    command = [sys.executable, "-m", "bench"]
    failed = [name for name in names if subprocess.run([*command, name, *options], check=False).returncode]
    if failed:
        print(f"failed: {', '.join(failed)}", file=sys.stderr)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
