"""Received reports as values, and the collector of warnings."""

from datetime import UTC, date, datetime
from pathlib import Path

from stsguard.core.received_report import (
    MAX_WARNING_LENGTH,
    MAX_WARNINGS,
    AppliedPolicy,
    Notes,
    ReceivedPolicy,
    ReceivedReport,
    ReceivedWarning,
    Summary,
    WarningCode,
)


def policy(successes: int = 1, failures: int = 2, warnings: tuple[ReceivedWarning, ...] = ()) -> ReceivedPolicy:
    return ReceivedPolicy(AppliedPolicy("sts", ""), Summary(successes, failures), warnings=warnings)


def report(start: str, end: str, *policies: ReceivedPolicy) -> ReceivedReport:
    return ReceivedReport(
        "", "", "", *(datetime.fromisoformat(text).replace(tzinfo=UTC) for text in (start, end)), policies
    )


def test_sums_and_warnings() -> None:
    told = ReceivedWarning(WarningCode.EMPTY_VALUE, "a")
    found = report("2026-03-01", "2026-03-02", policy(), policy(10, 20, (told,)))
    assert (found.successes, found.failures) == (11, 22)
    assert list(found.all_warnings()) == [told]


def test_the_day_is_that_of_the_middle() -> None:
    assert report("2026-03-01", "2026-03-02").day == date(2026, 3, 1)
    assert report("2026-02-28T22:00", "2026-03-01T21:59").day == date(2026, 3, 1)
    assert report("2026-03-01T05:00", "2026-03-01T06:00").day == date(2026, 3, 1)


def test_equal_deviations_of_a_policy_are_one_warning() -> None:
    notes = Notes()
    notes.add(WarningCode.EMPTY_VALUE, "first", 3)
    notes.add(WarningCode.EMPTY_VALUE, "second", 3)
    notes.add(WarningCode.EMPTY_VALUE, "x" * 1000)
    assert notes.of(3) == (ReceivedWarning(WarningCode.EMPTY_VALUE, "first", 2),)
    assert notes.of(4) == ()
    assert notes.of_report() == (ReceivedWarning(WarningCode.EMPTY_VALUE, "x" * MAX_WARNING_LENGTH),)


def test_there_are_not_more_warnings_than_that() -> None:
    notes = Notes()
    for at in range(MAX_WARNINGS + 7):
        notes.add(WarningCode.SUMS_DIFFER, "text", at)
    assert notes.of_report() == (ReceivedWarning(WarningCode.WARNINGS_LEFT_OUT, "7 more warnings of policies"),)
    assert notes.of(MAX_WARNINGS) == ()


def test_each_code_is_documented() -> None:
    text = (Path(__file__).parents[2] / "docs/received.md").read_text(encoding="utf-8")
    assert [code for code in WarningCode if f"`{code}`" not in text] == []
