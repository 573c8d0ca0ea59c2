"""Lines of the transport that carries our own reports, and the time zone of classic time stamps."""

from datetime import UTC, datetime, timedelta
from zoneinfo import ZoneInfo

import pytest

from stsguard.app.mail_log import local_time_zone, without_own_reports

OURS = "Nov 21 10:00:00 mta postfix/stsguard-report/smtp[7]: 4A: to=<tls@a.example>, relay=mx.a.example[192.0.2.1]:25"
OTHER = "Nov 21 10:00:00 mta postfix/smtp[8]: 4B: to=<x@a.example>, relay=mx.a.example[192.0.2.1]:25"
HOSTILE = "Nov 21 10:00:00 mta postfix/smtp[8]: 4C: to=</stsguard-report/@a.example>, relay=mx.a.example[192.0.2.1]:25"


def test_rfc8460_3_sessions_of_our_own_reports_are_not_reported() -> None:
    assert without_own_reports([OURS, OTHER]) == [OTHER]
    assert without_own_reports([OTHER]) == [OTHER]


def test_only_the_tag_tells_our_own_reports() -> None:
    assert without_own_reports([HOSTILE, OURS]) == [HOSTILE]


def test_the_time_zone_is_that_of_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("TZ", ":Europe/Berlin")
    assert local_time_zone() == ZoneInfo("Europe/Berlin")
    monkeypatch.setenv("TZ", "no such zone")
    assert local_time_zone() is UTC
    monkeypatch.delenv("TZ")
    now = datetime.now(UTC)
    offset = now.astimezone(local_time_zone()).utcoffset()
    assert offset == now.astimezone().utcoffset()
    assert offset is not None
    assert abs(offset) <= timedelta(hours=14)
