"""Our counters and gauges in Prometheus' text format, by prometheus_client."""

from collections.abc import Iterator

from prometheus_client import CollectorRegistry, PlatformCollector, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, Metric

from stsguard.metrics import Counter, all_metrics


class _Collector:
    """Reads every declared counter and gauge at the time of the scrape."""

    def collect(self) -> Iterator[Metric]:
        """All of them, in order of name."""
        for metric in all_metrics():
            family: CounterMetricFamily | GaugeMetricFamily
            if isinstance(metric, Counter):
                family = CounterMetricFamily(metric.name, metric.help, labels=metric.labels)
                values = {key: float(value) for key, value in metric.values.items()}
            else:
                family = GaugeMetricFamily(metric.name, metric.help, labels=metric.labels)
                values = metric.read()
            for labels, value in values.items():
                family.add_metric(labels, value)
            yield family


def render_metrics() -> bytes:
    """The text of `/metrics`, process figures included."""
    registry = CollectorRegistry()
    ProcessCollector(registry=registry)
    PlatformCollector(registry=registry)
    registry.register(_Collector())
    return generate_latest(registry)
