"""Counters and gauges as plain numbers; `/metrics` turns them into Prometheus' text with prometheus_client.

A module declares its counters together at its top, so that they read as the list of what can happen there.
An increment is one dictionary update: no lock, since each process counts on one thread.
"""

from collections.abc import Callable, Iterator

_registry: dict[str, "Counter | Gauge"] = {}


class Counter:
    """A number that only grows, by label values: `lookups = Counter("lookups", "Look-ups answered.", "answer")`."""

    __slots__ = ("help", "labels", "name", "values")

    def __init__(self, name: str, help_text: str, *labels: str) -> None:
        self.name = f"stsguard_{name}"
        self.help = help_text
        self.labels = labels
        self.values: dict[tuple[str, ...], int] = {} if labels else {(): 0}
        _registry[self.name] = self

    def inc(self, *label_values: str, by: int = 1) -> None:
        """Count `by` more under these label values, one for each label."""
        self.values[label_values] = self.values.get(label_values, 0) + by

    def value(self, *label_values: str) -> int:
        """The present count under these label values, 0 where nothing was counted."""
        return self.values.get(label_values, 0)


class Gauge:
    """A number read when asked for: `read` gives it by label values."""

    __slots__ = ("help", "labels", "name", "read")

    def __init__(
        self, name: str, help_text: str, *labels: str, read: Callable[[], dict[tuple[str, ...], float]]
    ) -> None:
        self.name = f"stsguard_{name}"
        self.help = help_text
        self.labels = labels
        self.read = read
        _registry[self.name] = self


def all_metrics() -> Iterator[Counter | Gauge]:
    """Every counter and gauge declared so far, by name."""
    return iter([_registry[name] for name in sorted(_registry)])
