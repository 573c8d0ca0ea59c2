"""Token buckets: so much at once, so much a second, in bounded memory."""

from stsguard.core.token_buckets import TokenBuckets


def test_so_many_at_once_and_then_so_many_a_second() -> None:
    buckets = TokenBuckets(rate=2.0, burst=3.0, most=10)
    assert [buckets.take("a", 0.0) for _ in range(4)] == [0, 0, 0, 0.5]
    assert buckets.take("b", 0.0) == 0, "each has a bucket of his own"
    assert buckets.take("a", 0.25) == 0.25
    assert buckets.take("a", 0.5) == 0
    assert [buckets.take("a", 1000.0) for _ in range(4)] == [0, 0, 0, 0.5], "no more than the burst is saved"


def test_a_cost_that_is_known_afterwards_has_to_come_in_again() -> None:
    buckets = TokenBuckets(rate=1.0, burst=10.0, most=10)
    assert buckets.take("a", 0.0, 25.0) == 0
    buckets.charge("a", 0.0, 5.0)
    assert buckets.take("a", 0.0) == 21
    assert buckets.take("a", 21.0) == 0


def test_a_clock_that_goes_back_takes_nothing_away() -> None:
    buckets = TokenBuckets(rate=1.0, burst=2.0, most=10)
    assert buckets.take("a", 100.0) == 0
    assert buckets.take("a", 50.0) == 0


def test_whoever_has_been_away_longest_is_forgotten() -> None:
    buckets = TokenBuckets(rate=1.0, burst=1.0, most=2)
    for key in ("a", "b", "c"):
        assert buckets.take(key, 0.0) == 0
    assert buckets.take("c", 0.0) == 1
    assert buckets.take("a", 0.0) == 0
