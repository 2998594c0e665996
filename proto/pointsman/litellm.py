"""LiteLLM's Router asks Pointsman which deployment takes a call, and tells it what the call came to.

Needs LiteLLM (`pip install 'pointsman[litellm]'`), which nothing else of the client does. Deployments say which arm
they are, and where an arm is served at several endpoints, which one (`endpoint`):

>>> router = litellm.Router(model_list=[  # doctest: +SKIP
...     {"model_name": "pointsman", "litellm_params": {"model": "openai/small"}, "model_info": {"arm": "small-model"}},
...     {"model_name": "pointsman", "litellm_params": {"model": "openai/big"}, "model_info": {"arm": "frontier-model"}},
... ])
>>> connect(router, pointsman.Client(baseline_arm="frontier-model"))  # doctest: +SKIP
>>> router.completion("pointsman", messages, metadata={"session_id": "fix-1041"})  # doctest: +SKIP

A call of the group goes where Pointsman says. Its session is `metadata["session_id"]`, else `litellm_session_id`, else
the call with its retries; `metadata["pointsman"]` may hold `features` (a text as `{"text": …}` where it comes as JSON),
`required_capabilities` and `context_tokens`. A call of any other model is the user's pick and is served by that model;
where it is an arm, Pointsman is told of it as pinned.

What calls cost, used and took is reported as it comes, as totals of the attempt; calls of one session have to pass
through one process for that. What an attempt achieved LiteLLM cannot know: the agent says it with `Client.reward`. A
provider that fails (401, 403, 404, 408, 429, 5xx) ends the attempt as UNAVAILABLE and a prompt too long for it as
CAPABILITY, so that LiteLLM's retry finds another arm. Tokens of the client need the scopes route, reward and read.
"""

import asyncio
import logging
import random
from collections import OrderedDict
from collections.abc import Callable, Iterable, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from threading import Lock
from typing import Any, TypeVar

import grpc
import litellm
from litellm.integrations.custom_logger import CustomLogger
from litellm.types.router import CustomRoutingStrategyBase

from pointsman.client import Client
from pointsman.errors import code_of
from pointsman.requests import Feature, Text, is_out_of_reach, new_id
from pointsman.v1 import routing_pb2 as pb

_T = TypeVar("_T")
_Deployment = Mapping[str, Any]

_log = logging.getLogger(__name__)

_DECISION = "pointsman_decision_id"
"""Where a call's metadata carries its decision from the pick to the report."""
_REMEMBERED = 100_000
"""Attempts whose totals are held here; older ones are asked for again."""
_THREADS = 32
_PROVIDER_FAILED = {401, 403, 404, 408, 429}


def connect(router: Any, client: Client, *, group: str = "pointsman") -> None:
    """Has `client` choose among the deployments of `group` on a `litellm.Router`, and hear what its calls come to.

    While the service is out of reach, calls of the group go to the client's `baseline_arm`, unlogged, or fail where it
    has none. ValueError where a deployment of the group does not say which arm it is.
    """
    deployments = _lister(router)
    unnamed = [each["model_info"]["id"] for each in deployments() if each["model_name"] == group and not _arm(each)]
    if unnamed:
        raise ValueError(f"deployments of {group!r} without an `arm` in their model_info: {', '.join(unnamed)}")
    ledger = _Ledger()
    threads = ThreadPoolExecutor(_THREADS, thread_name_prefix="pointsman")
    strategy = PointsmanStrategy(deployments, client, group, ledger, threads)
    # Newer LiteLLMs call it a plugin, and warn at the name of before.
    getattr(router, "register_plugin", router.set_custom_routing_strategy)(strategy)
    litellm.logging_callback_manager.add_litellm_callback(OutcomeLogger(client, ledger, threads))


def _lister(router: Any) -> Callable[[], Iterable[_Deployment]]:
    """The deployments of a router as they are when asked; newer LiteLLMs keep them in a registry."""
    return (lambda: router.registry().all()) if hasattr(router, "registry") else (lambda: router.model_list)


def _arm(deployment: _Deployment) -> str:
    """The arm that a deployment serves; empty where it is none."""
    return deployment["model_info"].get("arm") or ""


@dataclass(frozen=True, kw_only=True)
class _Totals:
    """What an attempt has come to so far. Zero dollars are not told: Pointsman derives them from tokens and prices."""

    revision: int = 0
    cost_usd: float = 0.0
    input_tokens: int = 0
    output_tokens: int = 0
    cached_tokens: int = 0
    latency_seconds: float = 0.0

    @classmethod
    def told(cls, outcome: pb.Outcome) -> "_Totals":
        """What the service has been told already, before a restart for instance."""
        usage = outcome.usage
        return cls(
            revision=outcome.revision,
            cost_usd=outcome.cost_usd,
            input_tokens=usage.input_tokens,
            output_tokens=usage.output_tokens,
            cached_tokens=usage.cached_tokens,
            latency_seconds=outcome.latency_seconds,
        )

    def plus(self, other: "_Totals") -> "_Totals":
        """With one more call."""
        return _Totals(
            revision=self.revision + 1,
            cost_usd=self.cost_usd + other.cost_usd,
            input_tokens=self.input_tokens + other.input_tokens,
            output_tokens=self.output_tokens + other.output_tokens,
            cached_tokens=self.cached_tokens + other.cached_tokens,
            latency_seconds=self.latency_seconds + other.latency_seconds,
        )

    def fields(self) -> dict[str, Any]:
        """As `Client.reward` and `Client.escalate` take them."""
        usage = pb.Usage(
            input_tokens=self.input_tokens, output_tokens=self.output_tokens, cached_tokens=self.cached_tokens
        )
        return {"cost_usd": self.cost_usd or None, "usage": usage, "latency_seconds": self.latency_seconds}


class _Ledger:
    """The totals of attempts that this process runs, by decision; safe to share between threads."""

    def __init__(self) -> None:
        self._totals: OrderedDict[str, _Totals] = OrderedDict()
        self._lock = Lock()

    def knows(self, decision_id: str) -> bool:
        """Whether the attempt was opened here and is remembered."""
        with self._lock:
            return decision_id in self._totals

    def open(self, decision_id: str, totals: _Totals) -> None:
        """Begins an attempt, unless it has been."""
        with self._lock:
            self._totals.setdefault(decision_id, totals)
            self._totals.move_to_end(decision_id)
            if len(self._totals) > _REMEMBERED:
                self._totals.popitem(last=False)

    def add(self, decision_id: str, call: _Totals) -> _Totals | None:
        """Adds a call and returns what the attempt has come to; None where it was not opened here."""
        with self._lock:
            before = self._totals.get(decision_id)
            if before is None:
                return None
            self._totals[decision_id] = before.plus(call)
            return self._totals[decision_id]


@dataclass(frozen=True)
class _Pick:
    """Where a call goes, and by which decision; empty where it is unlogged."""

    arm: str
    endpoint: str = ""
    decision_id: str = ""


class PointsmanStrategy(CustomRoutingStrategyBase):
    """The routing strategy that `connect` registers."""

    def __init__(
        self,
        deployments: Callable[[], Iterable[_Deployment]],
        client: Client,
        group: str,
        ledger: _Ledger,
        threads: ThreadPoolExecutor,
    ) -> None:
        self._deployments = deployments
        self._client = client
        self._group = group
        self._ledger = ledger
        self._threads = threads

    async def async_get_available_deployment(
        self,
        model: str,
        messages: list[dict[str, str]] | None = None,
        input: str | list[Any] | None = None,
        specific_deployment: bool | None = False,
        request_kwargs: dict[str, Any] | None = None,
    ) -> _Deployment:
        """As `get_available_deployment`, beside the event loop."""
        return await _beside(self._threads, lambda: self._deployment(model, request_kwargs))

    def get_available_deployment(
        self,
        model: str,
        messages: list[dict[str, str]] | None = None,
        input: str | list[Any] | None = None,
        specific_deployment: bool | None = False,
        request_kwargs: dict[str, Any] | None = None,
    ) -> _Deployment:
        """The deployment that takes a call; its decision goes into the call's metadata.

        grpc.RpcError where Pointsman refuses, or is out of reach without a baseline; litellm.BadRequestError where no
        deployment has the model's name.
        """
        return self._deployment(model, request_kwargs)

    def _deployment(self, model: str, call: dict[str, Any] | None) -> _Deployment:
        call = {} if call is None else call
        named = [each for each in self._deployments() if model in (each["model_name"], each["model_info"]["id"])]
        if not named:
            raise litellm.BadRequestError(f"no deployment is called {model!r}", model=model, llm_provider="")
        arms = {_arm(each) for each in named}
        # LiteLLM's own notes on the call stand in this very mapping too.
        metadata = call["metadata"] = call.get("metadata") or {}
        if model == self._group:
            pick = self._picked(call, metadata, allow=arms)
        elif len(arms) == 1 and "" not in arms:
            pick = self._picked(call, metadata, pinned_arm=arms.pop())
        else:
            return random.choice(named)
        metadata[_DECISION] = pick.decision_id
        serving = [each for each in named if _arm(each) == pick.arm]
        there = [each for each in serving if each["model_info"].get("endpoint", "") == pick.endpoint]
        return random.choice(there or serving)

    def _picked(
        self, call: Mapping[str, Any], metadata: Mapping[str, Any], *, allow: Iterable[str] = (), pinned_arm: str = ""
    ) -> _Pick:
        session_id = str(
            metadata.get("session_id") or call.get("litellm_session_id") or call.get("litellm_trace_id") or ""
        )
        said = metadata.get("pointsman") or {}
        try:
            choice = self._client.select(
                {name: _feature(value) for name, value in (said.get("features") or {}).items()},
                session_id=session_id,
                allow=allow,
                pinned_arm=pinned_arm,
                required_capabilities=said.get("required_capabilities") or (),
                context_tokens=said.get("context_tokens"),
            )
        except grpc.RpcError as error:
            if pinned_arm and is_out_of_reach(error):
                return _Pick(pinned_arm)
            if code_of(error) is grpc.StatusCode.FAILED_PRECONDITION and (last := self._last_of_ended(session_id)):
                return last if pinned_arm in ("", last.arm) else _Pick(pinned_arm)
            raise
        if choice.decision_id and not self._ledger.knows(choice.decision_id):
            told = _Totals()
            if choice.reason == pb.SELECT_REASON_STICKY:
                attempts = self._client.get_session(choice.session_id).attempts
                told = _Totals.told(attempts[-1].outcome)
            self._ledger.open(choice.decision_id, told)
        return _Pick(choice.arm, choice.endpoint, choice.decision_id)

    def _last_of_ended(self, session_id: str) -> _Pick | None:
        """The last attempt of a session that is exhausted or closed, which its calls go on with; None where it is not.

        A conversation goes on although no further attempt was worth its price, or its verdict was told.
        """
        try:
            session = self._client.get_session(session_id)
        except grpc.RpcError:
            return None
        if not (session.exhausted or session.final):
            return None
        last = session.attempts[-1]
        self._ledger.open(last.decision_id, _Totals.told(last.outcome))
        return _Pick(last.arm, last.endpoint, last.decision_id)


class OutcomeLogger(CustomLogger):
    """The callback that `connect` registers: tells Pointsman what calls cost, used and took, and which providers fail.

    A report that does not arrive is logged and not sent again: the next one of the attempt covers it.
    """

    def __init__(self, client: Client, ledger: _Ledger, threads: ThreadPoolExecutor) -> None:
        super().__init__()
        # LiteLLM takes loggers with equal public texts and numbers for one: a second router's would be left out.
        self.id = new_id()
        self._client = client
        self._ledger = ledger
        self._threads = threads

    async def async_log_success_event(
        self, kwargs: Mapping[str, Any], response_obj: Any, start_time: Any, end_time: Any
    ) -> None:
        """As `log_success_event`, beside the event loop."""
        await _beside(self._threads, lambda: self.log_success_event(kwargs, response_obj, start_time, end_time))

    async def async_log_failure_event(
        self, kwargs: Mapping[str, Any], response_obj: Any, start_time: Any, end_time: Any
    ) -> None:
        """As `log_failure_event`, beside the event loop. LiteLLM awaits it before it tries again."""
        await _beside(self._threads, lambda: self.log_failure_event(kwargs, response_obj, start_time, end_time))

    def log_success_event(self, kwargs: Mapping[str, Any], response_obj: Any, start_time: Any, end_time: Any) -> None:
        """Reports what the attempt has come to with this call; an answer out of LiteLLM's cache is none of its."""
        decision_id, logged = _logged(kwargs)
        if not decision_id or logged.get("cache_hit"):
            return
        details = getattr(getattr(response_obj, "usage", None), "prompt_tokens_details", None)
        cached = min(getattr(details, "cached_tokens", None) or 0, logged["prompt_tokens"])
        call = _Totals(
            cost_usd=logged["response_cost"] or 0.0,
            input_tokens=logged["prompt_tokens"] - cached,
            output_tokens=logged["completion_tokens"],
            cached_tokens=cached,
            latency_seconds=logged["response_time"],
        )
        if totals := self._ledger.add(decision_id, call):
            self._tell(
                lambda: self._client.reward(decision_id=decision_id, revision=totals.revision, **totals.fields())
            )

    def log_failure_event(self, kwargs: Mapping[str, Any], response_obj: Any, start_time: Any, end_time: Any) -> None:
        """Leaves the attempt where its provider failed or the prompt did not fit; other failures are the caller's."""
        decision_id, logged = _logged(kwargs)
        reason = _reason(kwargs.get("exception"))
        if not decision_id or reason is None:
            return
        if totals := self._ledger.add(decision_id, _Totals(latency_seconds=logged["response_time"])):
            self._tell(lambda: self._client.escalate(decision_id, reason=reason, **totals.fields()))

    def _tell(self, send: Callable[[], object]) -> None:
        try:
            send()
        except grpc.RpcError as error:
            # Calls of one attempt that fail together: the first has left it.
            level = logging.DEBUG if code_of(error) is grpc.StatusCode.FAILED_PRECONDITION else logging.WARNING
            _log.log(level, "Pointsman was not told what a call came to: %s", code_of(error).name)


def _logged(kwargs: Mapping[str, Any]) -> tuple[str, Mapping[str, Any]]:
    """The decision by which a call went where it went (empty: none), and LiteLLM's own record of the call."""
    metadata = (kwargs.get("litellm_params") or {}).get("metadata") or {}
    return metadata.get(_DECISION) or "", kwargs.get("standard_logging_object") or {}


def _reason(failure: object) -> pb.EscalationReason.ValueType | None:
    """Why an attempt is left after a failed call; None where the failure says nothing of the arm."""
    if isinstance(failure, litellm.ContextWindowExceededError):
        return pb.ESCALATION_REASON_CAPABILITY
    status = getattr(failure, "status_code", None)
    if isinstance(status, int) and (status in _PROVIDER_FAILED or status >= 500):
        return pb.ESCALATION_REASON_UNAVAILABLE
    return None


def _feature(value: Any) -> Feature:
    """A feature out of metadata, where JSON has no `Text`."""
    return Text(value["text"]) if isinstance(value, Mapping) and set(value) == {"text"} else value


async def _beside(threads: ThreadPoolExecutor, work: Callable[[], _T]) -> _T:
    """Runs `work` in a thread of ours: LiteLLM itself needs those of the event loop."""
    return await asyncio.get_running_loop().run_in_executor(threads, work)
