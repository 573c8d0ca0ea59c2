"""Runs a target under atheris: `python -m tests.fuzz TARGET|all --seconds 60`.

Exit code 0: the time is over and nothing was found. New inputs are collected below build/fuzz/TARGET, and a finding
is written there as crash-*; `python -m tests.fuzz TARGET --replay FILE` shows it again. To keep an input for good, copy
it to tests/fuzz/corpus/TARGET/.
"""

import argparse
import importlib
import subprocess
import sys
from pathlib import Path

from tests.fuzz.targets import TARGETS

CORPUS = Path(__file__).parent / "corpus"
WORK = Path("build/fuzz")
MAX_INPUT_BYTES = 4096


def main() -> int:
    """Parse the command line and run what it names."""
    parser = argparse.ArgumentParser(prog="python -m tests.fuzz", description="Fuzz the parsers.")
    parser.add_argument("target", choices=[*TARGETS, "all"])
    parser.add_argument("--seconds", type=int, default=60, help="for each target (default: 60)")
    parser.add_argument("--replay", type=Path, metavar="FILE", help="run this input once, without atheris")
    arguments = parser.parse_args()
    if arguments.target == "all":
        return _fuzz_all(arguments.seconds)
    if arguments.replay:
        TARGETS[arguments.target](arguments.replay.read_bytes())
        return 0
    return _fuzz(arguments.target, arguments.seconds)


def _fuzz_all(seconds: int) -> int:
    """One process a target, one after the other: libFuzzer ends its process."""
    failed = []
    for name in TARGETS:
        command = [sys.executable, "-m", "tests.fuzz", name, "--seconds", str(seconds)]
        if subprocess.run(command, check=False).returncode:
            failed.append(name)
    print("fuzz: nothing found" if not failed else f"fuzz: FAILED: {', '.join(failed)}", flush=True)
    return 1 if failed else 0


def _fuzz(name: str, seconds: int) -> int:
    try:
        atheris = importlib.import_module("atheris")
    except ModuleNotFoundError:
        print("fuzz: atheris is not installed: pip install 'stsguard[fuzz]'", file=sys.stderr)
        return 2
    print(f"fuzz: {name} for {seconds} s", flush=True)
    work = WORK / name
    work.mkdir(parents=True, exist_ok=True)
    target = TARGETS[name]
    with atheris.instrument_imports(include=["stsguard"]):
        for seed in sorted((CORPUS / name).iterdir()):
            target(seed.read_bytes())
    options = [
        f"-max_total_time={seconds}",
        f"-max_len={MAX_INPUT_BYTES}",
        "-timeout=10",
        "-rss_limit_mb=2048",
        f"-artifact_prefix={work}/",
        "-print_final_stats=1",
        "-verbosity=0",
    ]
    # The first directory takes what is new, so the saved corpus is only read.
    atheris.Setup([sys.argv[0], *options, str(work), str(CORPUS / name)], target)
    atheris.Fuzz()
    return 0


if __name__ == "__main__":
    sys.exit(main())
