"""`GET /metrics`: the counts, and how things stand when asked."""

import platform
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import TypeAlias, get_args

from aiohttp import web
from prometheus_client.metrics_core import Metric

from bandit.evidence import Conclusion
from server.auth.access import calling
from server.auth.grants import Scope
from server.dashboard.keeping import Keeping
from server.engine import Engine
from server.guard import Guard
from server.release import RELEASE
from server.routers import Router
from server.store.protocol import EventReader
from server.telemetry.counts import Counts
from server.telemetry.families import CONTENT_TYPE, Page, counter, gauge, histogram
from server.telemetry.standing import Books, Standing, gather

Metrics: TypeAlias = Iterator[Metric]

_ROUTER = ("router",)


class Scrape:
    """Answers whoever scrapes."""

    def __init__(
        self,
        *,
        engine: Engine,
        routers: Mapping[str, Router],
        reader: EventReader,
        guard: Guard,
        keeping: Keeping,
        healthy: Callable[[], bool],
    ) -> None:
        self._engine = engine
        self._routers = routers
        self._reader = reader
        self._guard = guard
        self._keeping = keeping
        self._healthy = healthy
        self._page = Page()
        self._build = RELEASE, platform.python_version()

    async def answer(self, _: web.Request) -> web.Response:
        """Answers a request of a caller who may read every router. Raises Forbidden."""
        calling.get().require(Scope.READ, None)
        standing = await gather(self._routers, self._reader, self._keeping)
        routers = [router for router in self._routers.values() if router.configuration.settings is not None]
        now_us = self._engine.now_us()
        told = self._page.of(
            (
                *_happened(self._engine.counts),
                *self._stands(standing),
                *_learned(routers, standing),
                *_settings(routers, now_us),
                *self._trials(routers),
                *_came_to(standing.books),
            )
        )
        return web.Response(body=told, headers={"Content-Type": CONTENT_TYPE})

    def _stands(self, standing: Standing) -> Metrics:
        yield gauge("build_info", "What is running.", ("version", "python"), [(self._build, 1.0)])
        yield gauge("serving", "Whether requests are taken.", (), [((), float(self._healthy()))])
        if standing.last_seq is not None:
            yield gauge("log_last_sequence", "The last event of the log.", (), [((), standing.last_seq)])

    def _trials(self, routers: Iterable[Router]) -> Metrics:
        running = {router.id: router.configuration.canary for router in routers}
        tried = [((router,), float(canary is not None)) for router, canary in running.items()]
        yield gauge("canary", "Whether a policy is tried on a share of new sessions.", _ROUTER, tried)
        trials = {
            router: trial
            for router, canary in running.items()
            if canary is not None and (trial := self._guard.trial(router, canary.version)) is not None
        }
        sessions = [
            ((router, side), n)
            for router, trial in trials.items()
            for side, n in (
                ("canary", trial.evidence.canary_sessions),
                ("live", trial.evidence.live_sessions),
                ("waiting", trial.waiting),
            )
        ]
        about = "Sessions of its trial: those that count, by who decided, and those that do not count yet."
        yield gauge("canary_sessions", about, ("router", "side"), sessions)
        verdicts = [
            ((router, conclusion), float(trial.verdict.conclusion == conclusion))
            for router, trial in trials.items()
            for conclusion in get_args(Conclusion)
        ]
        yield gauge("canary_verdict", "1 at what its evidence says.", ("router", "verdict"), verdicts)


def _happened(counts: Counts) -> Metrics:
    yield counter("decisions", "Attempts begun.", ("router", "arm", "reason"), counts.decisions.items())
    about = "Entropy of the lotteries that arms were drawn by, in nats, over all decisions."
    yield counter("decision_entropy_nats", about, _ROUTER, (((router,), n) for router, n in counts.entropy.items()))
    escalated = (((*key[:2], _truth(key[2])), n) for key, n in counts.escalations.items())
    yield counter("escalations", "Attempts left.", ("router", "reason", "exhausted"), escalated)
    yield counter("advice", "Progress reports, by what was advised.", ("router", "action"), counts.advice.items())
    rewards = (((router, came, _truth(final)), n) for (router, came, final), n in counts.rewards.items())
    about = "Rewards taken: in time, late (after their session was closed for want of them), or as corrections."
    yield counter("rewards", about, ("router", "came", "final"), rewards)
    yield counter("events", "Events made durable.", (), [((), counts.events)])
    about = "Seconds from the beginning of a round of requests until its events were durable."
    yield histogram("round_seconds", about, (), [((), counts.rounds)])
    yield histogram("round_requests", "Requests of a round.", (), [((), counts.requests)])
    about = "Seconds until the store had made a round's events durable."
    yield histogram("commit_seconds", about, (), [((), counts.commits)])
    yield counter("failed_rounds", "Rounds whose events may be lost.", (), [((), counts.failed_rounds)])
    calls = (((method,), seconds) for method, seconds in counts.calls.items())
    yield histogram("call_seconds", "Seconds that calls of single requests took.", ("method",), calls)
    yield counter("refused_calls", "Calls that ended with an error.", ("method", "code"), counts.refused.items())


def _learned(routers: Sequence[Router], standing: Standing) -> Metrics:
    learned = [((router.id,), router.learned_seq) for router in routers]
    yield gauge("learned_sequence", "The last event that the epoch in force knows of.", _ROUTER, learned)
    times = [((router,), at_us / 1e6) for router, at_us in standing.learned_us.items()]
    yield gauge("learned_timestamp_seconds", "When that event happened.", _ROUTER, times)
    epochs = [((router.id,), router.vintage.epoch) for router in routers if router.vintage is not None]
    yield gauge("epoch", "The epoch in force.", _ROUTER, epochs)


def _settings(routers: Sequence[Router], now_us: int) -> Metrics:
    modes, budgets, prices, spent, down = [], [], [], [], []
    for router in routers:
        settings, key = router.configuration.settings, (router.id,)
        assert settings is not None, "who asks leaves others out"
        modes.append(((router.id, settings.mode.value), 1.0))
        objective = settings.objective
        if objective.budget_usd is not None:
            budgets.append((key, objective.budget_usd))
            prices.append((key, router.pace.price(objective, now_us)))
            spent.append((key, router.pace.spent(objective, now_us) or 0.0))
        out = router.configuration.unavailable(now_us)
        down += [((router.id, arm.id), float(arm.id in out)) for arm in router.configuration.arms]
    yield gauge("mode", "1 at who decides, and whether it learns.", ("router", "mode"), modes)
    yield gauge("budget_usd", "Dollars that a period's spending is to be.", _ROUTER, budgets)
    yield gauge("budget_price", "What a dollar counts as beyond itself, to keep the budget.", _ROUTER, prices)
    yield gauge("budget_spent_usd", "Dollars spent in the running period.", _ROUTER, spent)
    yield gauge("arm_down", "Whether an arm is out of service.", ("router", "arm"), down)


def _came_to(books: Mapping[str, Books]) -> Metrics:
    """What all sessions of the log have come to. A correction may make these smaller, so they are gauges."""
    yield gauge("books_sequence", "The last event that is in the sums below.", _ROUTER, _each(books, "read"))
    states = [
        ((router, state), float(n))
        for router, of in books.items()
        for state, n in (
            ("open", of.open),
            ("told", of.told),
            ("closed", of.closed),
            ("untold", of.sessions - of.open - of.told),
        )
    ]
    about = "Sessions: open, ended with their success told or untold; closed: of these, ended for want of a reward."
    yield gauge("sessions", about, ("router", "state"), states)
    yield gauge(
        "spent_usd",
        "Dollars of all sessions that have ended and whose dollars are known.",
        _ROUTER,
        _each(books, "cost_usd"),
    )
    for figure, unit in (("success", "success"), ("cost_usd", "dollars")):
        for name, about in (
            ("attempts", f"Attempts of which {unit} was foretold and is known."),
            ("foretold", "What was foretold of these, all together."),
            ("real", "What came of these, all together."),
        ):
            values = [
                ((router, arm.arm), float(getattr(getattr(arm, figure), name)))
                for router, of in books.items()
                for arm in of.arms
            ]
            yield gauge(f"{figure}_{name}", about, ("router", "arm"), values)


def _each(books: Mapping[str, Books], name: str) -> list[tuple[tuple[str], float]]:
    return [((router,), float(getattr(of, name))) for router, of in books.items()]


def _truth(value: bool) -> str:
    return "true" if value else "false"
