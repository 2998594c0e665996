"""Metrics in the text format of Prometheus."""

from collections.abc import Iterable, Iterator
from typing import TypeAlias

from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4
from prometheus_client.metrics_core import Metric

from server.telemetry.counts import Histogram

CONTENT_TYPE = CONTENT_TYPE_PLAIN_0_0_4

Labels: TypeAlias = tuple[str, ...]
Values: TypeAlias = Iterable[tuple[Labels, float]]


def counter(name: str, about: str, labels: Labels, values: Values) -> Metric:
    """What only grows; a value for each combination of labels."""
    family = CounterMetricFamily(f"pointsman_{name}", about, labels=labels)
    for key, value in values:
        family.add_metric(key, value)
    return family


def gauge(name: str, about: str, labels: Labels, values: Values) -> Metric:
    """What goes up and down."""
    family = GaugeMetricFamily(f"pointsman_{name}", about, labels=labels)
    for key, value in values:
        family.add_metric(key, value)
    return family


def histogram(name: str, about: str, labels: Labels, values: Iterable[tuple[Labels, Histogram]]) -> Metric:
    """How often something was how large."""
    family = HistogramMetricFamily(f"pointsman_{name}", about, labels=labels)
    for key, told in values:
        buckets, total = [], 0
        for upto, n in zip((*map(str, told.bounds), "+Inf"), told.buckets, strict=True):
            total += n
            buckets.append((upto, total))
        family.add_metric(key, buckets, told.total)
    return family


class Page:
    """All of them as one text, with what is known of this process."""

    def __init__(self) -> None:
        self._process = CollectorRegistry()
        ProcessCollector(registry=self._process)

    def of(self, metrics: Iterable[Metric]) -> bytes:
        """The text."""
        registry = CollectorRegistry()
        registry.register(_Told(list(metrics)))
        return generate_latest(registry) + generate_latest(self._process)


class _Told:
    """A collector of metrics that there are already."""

    def __init__(self, metrics: list[Metric]) -> None:
        self._metrics = metrics

    def collect(self) -> Iterator[Metric]:
        yield from self._metrics
