"""`python -m stsguard` is the `stsguard` command."""

from stsguard.cli import main

if __name__ == "__main__":
    main()
