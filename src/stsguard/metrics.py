"""Counters and gauges as plain numbers; `/metrics` turns them into Prometheus' text with prometheus_client.

A module declares its counters together at its top, so that they read as the list of what can happen there.
An increment is one addition: no lock, since each process counts on one thread.
"""

from collections.abc import Callable, Iterator

_registry: dict[str, "Counter | Gauge"] = {}


class Tally:
    """The count under certain label values, for whoever counts too often to have it found each time."""

    __slots__ = ("count",)

    def __init__(self) -> None:
        self.count = 0


class Counter:
    """A number that only grows, by label values: `lookups = Counter("lookups", "Look-ups answered.", "answer")`."""

    __slots__ = ("_by_labels", "count", "help", "labels", "name")

    def __init__(self, name: str, help_text: str, *labels: str) -> None:
        self.name = f"stsguard_{name}"
        self.help = help_text
        self.labels = labels
        self.count = 0  # of one without labels, for whoever counts too often to call `inc`
        self._by_labels: dict[tuple[str, ...], Tally] = {}
        _registry[self.name] = self

    @property
    def values(self) -> dict[tuple[str, ...], int]:
        """The present counts by label values."""
        if not self.labels:
            return {(): self.count}
        return {label_values: tally.count for label_values, tally in self._by_labels.items() if tally.count}

    def tally(self, *label_values: str) -> Tally:
        """What is counted under these label values, to be added to."""
        found = self._by_labels.get(label_values)
        if found is None:
            found = self._by_labels[label_values] = Tally()
        return found

    def inc(self, *label_values: str, by: int = 1) -> None:
        """Count `by` more under these label values, one for each label."""
        if label_values:
            tally = self._by_labels.get(label_values)
            if tally is None:
                tally = self.tally(*label_values)
            tally.count += by
        else:
            self.count += by

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
