"""The words by which a database of ours knows how far reports have come: they may not change under it."""

from datetime import UTC, datetime

from stsguard.core.report_record import Delivery, DeliveryState, ReportState

NOW = datetime(2026, 5, 4, tzinfo=UTC)


def test_states_have_the_words_that_databases_hold() -> None:
    assert {state.value for state in ReportState} == {
        "building",
        "not-wanted",
        "pending",
        "sent",
        "failed",
        "skipped",
    }
    assert {state.value for state in DeliveryState} == {"pending", "sending", "sent", "failed", "skipped"}


def test_delivery_begins_without_an_attempt_and_with_nobody() -> None:
    delivery = Delivery("r1", "mailto:tls@a.example", DeliveryState.PENDING, NOW)
    assert (delivery.attempts, delivery.first_attempt_at) == (0, None)
    assert (delivery.claimed_by, delivery.claimed_until, delivery.last_error) == ("", None, "")
