"""`python -m bench [NAME…]`: all benches, or those named; `--smoke` for a run of seconds."""

import importlib
import sys

BENCHES = ("socketmap", "discovery", "policy_host", "startup", "maillog", "reports", "sessions", "intake")


def main(arguments: list[str]) -> int:
    """Run the benches named, all without a name."""
    smoke = "--smoke" in arguments
    names = [argument for argument in arguments if not argument.startswith("-")] or list(BENCHES)
    unknown = [name for name in names if name not in BENCHES]
    if unknown:
        print(f"no such bench: {', '.join(unknown)}; there are {', '.join(BENCHES)}", file=sys.stderr)
        return 2
    for name in names:
        importlib.import_module(f"bench.{name}").main(smoke=smoke)
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
