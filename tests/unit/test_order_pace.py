"""How often all hosts together ask a CA."""

from stsguard.core.errors import CertificateFailed, CertificateFault
from stsguard.inbound.order_pace import OrderPace
from tests.unit.fakes import Clock

DOWN = CertificateFailed("down", None, CertificateFault.CA)


def limited(seconds: float | None) -> CertificateFailed:
    return CertificateFailed("slower", seconds, CertificateFault.RATE_LIMIT)


def paced(per_hour: int = 60) -> tuple[OrderPace, Clock]:
    clock = Clock()
    return OrderPace(clock.monotonic, lambda: 0.0, per_hour=per_hour), clock


def wait(pace: OrderPace, clock: Clock) -> float:
    """Seconds until an order is permitted."""
    start = clock.elapsed
    while not pace.permits():
        clock.advance(10)
    return clock.elapsed - start


def test_so_many_an_hour_whatever_the_wall_clock_says() -> None:
    pace, clock = paced(per_hour=2)
    for _ in range(2):
        assert pace.permits()
        pace.begin()
        clock.advance(60)
    clock.jump(86_400 * 365)
    assert wait(pace, clock) == 3600 - 120
    pace.begin()
    assert wait(pace, clock) == 60


def test_a_ca_that_is_down_is_asked_less_and_less_by_one_host_at_a_time() -> None:
    pace, clock = paced()
    waits = []
    for _ in range(8):
        begun_at = pace.begin()
        assert pace.permits() is (not pace.problem)
        pace.failed(begun_at, DOWN)
        waits.append(wait(pace, clock))
    assert waits == [60, 120, 240, 480, 960, 1920, 3600, 3600]
    assert pace.problem == "down"
    pace.begin()
    pace.succeeded()
    assert pace.permits()
    assert pace.problem == ""
    pace.failed(pace.begin(), DOWN)
    assert wait(pace, clock) == 60


def test_those_that_fail_together_count_once() -> None:
    pace, clock = paced()
    begun = [pace.begin() for _ in range(4)]
    clock.advance(1)
    for begun_at in begun:
        pace.failed(begun_at, DOWN)
    assert wait(pace, clock) == 60


def test_its_retry_after_is_kept() -> None:
    pace, clock = paced()
    pace.failed(pace.begin(), CertificateFailed("503", 7200, CertificateFault.CA))
    assert wait(pace, clock) == 7200
    pace.succeeded()
    pace.failed(pace.begin(), CertificateFailed("503", 1e9, CertificateFault.CA))
    assert wait(pace, clock) == 86_400


def test_a_rate_limit_holds_for_all_unless_it_is_long_and_the_first() -> None:
    pace, clock = paced()
    pace.failed(pace.begin(), limited(None))
    assert wait(pace, clock) == 3600
    pace.succeeded()
    pace.failed(pace.begin(), limited(36))
    assert wait(pace, clock) == 40
    pace.succeeded()
    pace.failed(pace.begin(), limited(3 * 86_400))  # so long is a limit for one name
    assert pace.permits()
    pace.failed(pace.begin(), limited(20_000))  # unless the next one hears the same
    assert wait(pace, clock) == 20_000
    pace.failed(pace.begin(), CertificateFailed("this host's own fault"))
    assert pace.permits()
    assert pace.problem == ""
