"""`GET /metrics`: the counts, and how things stand when asked, in the text format of Prometheus."""

import asyncio
from collections.abc import Callable, Iterable, Iterator, Mapping
from contextlib import suppress

from aiohttp import web
from prometheus_client import CollectorRegistry, ProcessCollector, generate_latest
from prometheus_client.core import CounterMetricFamily, GaugeMetricFamily, HistogramMetricFamily
from prometheus_client.exposition import CONTENT_TYPE_PLAIN_0_0_4 as CONTENT_TYPE
from prometheus_client.metrics_core import Metric

from server.auth.access import calling
from server.auth.grants import Scope
from server.engine import Engine
from server.routers import Router
from server.store.errors import StoreError
from server.telemetry.counts import SECONDS, Spans


class Metrics:
    """Collects what there is to tell; a collector of `prometheus_client`."""

    def __init__(
        self,
        engine: Engine,
        routers: Mapping[str, Router],
        last_seq: Callable[[], int],
        healthy: Callable[[], bool],
    ) -> None:
        """`last_seq` tells the log's last event, from a thread of its own, and may raise StoreError."""
        self._engine = engine
        self._routers = routers
        self._last_seq = last_seq
        self._healthy = healthy
        self._last = 0
        self._registry = CollectorRegistry()
        self._registry.register(self)
        ProcessCollector(registry=self._registry)

    async def answer(self, _: web.Request) -> web.Response:
        """Answers a request of a caller who may read every router. Raises Forbidden."""
        calling.get().require(Scope.READ, None)
        with suppress(StoreError):
            self._last = await asyncio.to_thread(self._last_seq)
        return web.Response(body=generate_latest(self._registry), headers={"Content-Type": CONTENT_TYPE})

    def collect(self) -> Iterator[Metric]:
        """Every family."""
        yield from self._decided()
        yield from self._told()
        yield from self._served()
        yield from self._stands()

    def _decided(self) -> Iterator[Metric]:
        counts = self._engine.counts
        yield _counter("decisions", "Attempts begun.", ("router", "arm", "reason"), counts.decisions.items())
        about = "Entropy of the lotteries that arms were drawn by, in nats, over all decisions."
        yield _counter("decision_entropy_nats", about, ("router",), _keyed(counts.entropy))
        about = "Success that was foretold of the arms taken, over all decisions."
        yield _counter("foretold_success", about, ("router",), _keyed(counts.foretold_success))
        about = "Dollars that were foretold of the arms taken, over all decisions."
        yield _counter("foretold_usd", about, ("router",), _keyed(counts.foretold_usd))
        escalated = [((*key[:2], _truth(key[2])), n) for key, n in counts.escalations.items()]
        yield _counter("escalations", "Attempts left.", ("router", "reason", "exhausted"), escalated)

    def _told(self) -> Iterator[Metric]:
        counts = self._engine.counts
        yield _counter("advice", "Progress reports, by what was advised.", ("router", "action"), counts.advice.items())
        rewards = [((router, _truth(final)), n) for (router, final), n in counts.rewards.items()]
        yield _counter("rewards", "Rewards taken, corrections included.", ("router", "final"), rewards)
        about = "Rewards that told a success, and what they told."
        yield _counter("success_told", about, ("router",), _keyed(counts.success_told))
        yield _counter("success", about, ("router",), _keyed(counts.success))

    def _served(self) -> Iterator[Metric]:
        counts = self._engine.counts
        yield _counter("events", "Events made durable.", (), [((), counts.events)])
        rounds = HistogramMetricFamily(
            "pointsman_round_seconds", "From the beginning of a round of requests until its events were durable."
        )
        _add(rounds, (), counts.rounds)
        yield rounds
        yield _counter("failed_rounds", "Rounds whose events may be lost.", (), [((), counts.failed_rounds)])
        calls = HistogramMetricFamily("pointsman_call_seconds", "Calls of single requests.", labels=("method",))
        for method, spans in counts.calls.items():
            _add(calls, (method,), spans)
        yield calls
        yield _counter("refused_calls", "Calls that ended with an error.", ("method", "code"), counts.refused.items())

    def _stands(self) -> Iterator[Metric]:
        routers = self._routers
        yield _gauge("serving", "Whether requests are taken.", (), [((), float(self._healthy()))])
        yield _gauge("log_last_sequence", "The last event of the log.", (), [((), self._last)])
        learned = [((router.id,), router.learned_seq) for router in routers.values()]
        yield _gauge("learned_sequence", "The last event that the epoch in force knows of.", ("router",), learned)
        epochs = [((each.id,), each.vintage.epoch) for each in routers.values() if each.vintage is not None]
        yield _gauge("epoch", "The epoch in force.", ("router",), epochs)
        now_us = self._engine.now_us()
        prices = [((router.id,), router.budget_price(now_us)) for router in routers.values() if router.has_budget]
        yield _gauge("budget_price", "What a dollar counts as, to keep the budget; 0: as one.", ("router",), prices)
        canaries = [((each.id,), float(each.configuration.canary is not None)) for each in routers.values()]
        yield _gauge("canary", "Whether a policy is tried on a share of new sessions.", ("router",), canaries)
        down = [
            ((router.id, arm.id), float(arm.id in out))
            for router in routers.values()
            for out in [router.configuration.unavailable(now_us)]
            for arm in router.configuration.arms
        ]
        yield _gauge("arm_down", "Whether an arm is out of service.", ("router", "arm"), down)


def _keyed(by_router: Mapping[str, float]) -> Iterator[tuple[tuple[str], float]]:
    return (((router,), value) for router, value in by_router.items())


def _truth(value: bool) -> str:
    return "true" if value else "false"


def _counter(
    name: str, about: str, labels: tuple[str, ...], values: Iterable[tuple[tuple[str, ...], float]]
) -> CounterMetricFamily:
    family = CounterMetricFamily(f"pointsman_{name}", about, labels=labels)
    for key, value in values:
        family.add_metric(key, value)
    return family


def _gauge(
    name: str, about: str, labels: tuple[str, ...], values: Iterable[tuple[tuple[str, ...], float]]
) -> GaugeMetricFamily:
    family = GaugeMetricFamily(f"pointsman_{name}", about, labels=labels)
    for key, value in values:
        family.add_metric(key, value)
    return family


def _add(family: HistogramMetricFamily, labels: tuple[str, ...], spans: Spans) -> None:
    buckets, total = [], 0
    for upto, n in zip((*map(str, SECONDS), "+Inf"), spans.buckets, strict=True):
        total += n
        buckets.append((upto, total))
    family.add_metric(labels, buckets, spans.seconds)
