"""Ratios as the benches find them, beside what they have to be: printed, and kept for the table of docs/performance.md.

`python -m bench` names a file in the environment, into which the benches, some of them processes of their own, write
what they found; without it they only print. The table keeps the rows of benches that were not run this time.
"""

import json
import math
import os
import platform
import re
import statistics
from collections.abc import Iterable, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

FILE = "STSGUARD_BENCH_RESULTS"
PAGE = Path(__file__).parent.parent / "docs/performance.md"
BEGIN, END = "<!-- begin: written by python -m bench -->", "<!-- end -->"
HEAD = ("| bench | what | measured | must | aim | the figures behind it |", "|---|---|---|---|---|---|")


@dataclass(frozen=True, slots=True)
class Result:
    """One ratio. `least` says that it has to be at least, not at most, what `must` says and `aim` hopes for;
    `figures` are the absolute ones behind it, `unit` follows each number."""

    bench: str
    what: str
    value: float
    must: float
    aim: float
    least: bool
    figures: str
    unit: str = ""

    @property
    def holds(self) -> bool:
        """Whether it is what it must be."""
        return self.value >= self.must if self.least else self.value <= self.must


def ratio(pairs: Iterable[tuple[float, float]]) -> float:
    """The median of the ratios; not a number where a smoke run was too short for any."""
    ratios = [first / second for first, second in pairs if second > 0]
    return statistics.median(ratios) if ratios else math.nan


def note(result: Result) -> None:
    """Print a result, and keep it for the table where one is being made."""
    bound = "at least" if result.least else "at most"
    value, must = _number(result.value, result), _number(result.must, result)
    print(f"{result.what}: {value} ({bound} {must}; {result.figures}; python -m bench {result.bench})")
    file = os.environ.get(FILE)
    if file:
        with Path(file).open("a", encoding="utf-8") as out:
            out.write(json.dumps(asdict(result)) + "\n")


def read(file: Path) -> list[Result]:
    """What the benches have written."""
    return [Result(**json.loads(line)) for line in file.read_text(encoding="utf-8").splitlines()]


def write_table(results: Sequence[Result], page: Path = PAGE) -> None:
    """Put `results` into the table, each in its place where that is there already."""
    text = page.read_text(encoding="utf-8")
    before, _, rest = text.partition(BEGIN)
    block, _, after = rest.partition(END)
    rows = {_key(line): line for line in block.splitlines() if line.startswith("| `")}
    rows |= {_key(line): line for line in map(_row, results)}
    lines = [*HEAD, *rows.values(), "", f"Last written {datetime.now(UTC):%Y-%m-%d} on {_machine()}."]
    page.write_text(before + "\n".join((BEGIN, *lines, END)) + after, encoding="utf-8")


def _row(result: Result) -> str:
    sign = "≥" if result.least else "≤"
    cells = (
        f"`{result.bench}`",
        result.what,
        f"**{_number(result.value, result)}**" if result.holds else f"{_number(result.value, result)}, missed",
        f"{sign} {_number(result.must, result)}",
        f"{sign} {_number(result.aim, result)}",
        result.figures,
    )
    return f"| {' | '.join(cells)} |"


def _key(row: str) -> str:
    return "|".join(row.split("|")[1:3])


def _number(value: float, result: Result) -> str:
    return f"{value:.2f}{result.unit}" if abs(value) < 10 else f"{value:.0f}{result.unit}"


def _machine() -> str:
    cpu = Path("/proc/cpuinfo").read_text(encoding="utf-8")
    model = re.search(r"model name\s*:\s*(.+)", cpu)
    memory = re.search(r"MemTotal:\s*(\d+)", Path("/proc/meminfo").read_text(encoding="ascii"))
    gib = int(memory.group(1)) / 2**20 if memory else 0
    cores = f"{os.cpu_count()} cores ({model.group(1) if model else platform.machine()})"
    return f"{cores}, {gib:.0f} GiB, Linux {platform.release()}, Python {platform.python_version()}"
