"""The clients: `Client` for threads, `AsyncClient` for asyncio, alike in everything else.

Both retry a call that found the service UNAVAILABLE, or so busy that it says when to come back, with the same
`request_id`, so that nothing counts twice however often it is sent. Failed calls raise `grpc.RpcError` as it came;
`field_violations` says which field was wrong.

With a `baseline_arm`, a `select` that cannot reach the service answers with that arm, reason BASELINE and an
empty `decision_id`: the choice is unlogged, and `escalate`, `report_progress` and `reward` on it do nothing.

What has no method of its own is called through the stubs, with the same retries and deadline:
`client.call(client.admin.GetRouter, GetRouterRequest())`. Other services, such as health and Events, are on
`client.channel`, to be called with `metadata=client.metadata`.
"""

import asyncio
import time
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field
from random import Random
from types import TracebackType
from typing import Self, TypeVar

import grpc
import grpc.aio
from google.protobuf.message import Message

from pointsman import channels, requests
from pointsman.requests import Features
from pointsman.v1 import admin_pb2, admin_pb2_grpc, routing_pb2_grpc
from pointsman.v1 import routing_pb2 as pb

_Request = TypeVar("_Request", bound=Message)
_Response = TypeVar("_Response")

_DEFAULT_TARGET = "127.0.0.1:50051"


@dataclass(frozen=True)
class _Settings:
    """What both clients are told, checked."""

    router: str
    timeout_seconds: float
    retries: int
    baseline_arm: str | None
    token: str = field(repr=False)

    def __post_init__(self) -> None:
        if not self.timeout_seconds > 0:
            raise ValueError(f"timeout_seconds is {self.timeout_seconds}: must be above 0")
        if self.retries < 0:
            raise ValueError(f"retries is {self.retries}: must be 0 or more")
        if not channels.may_be_token(self.token):
            raise ValueError("token holds characters that no header may have")

    @property
    def metadata(self) -> tuple[tuple[str, str], ...]:
        """What goes with every call."""
        return channels.metadata(self.token)


class Client:
    """A client of the Routing service, and of Admin through its stub `admin`; safe to share between threads.

    Parameters
    ----------
    target:
        `HOST:PORT` of the service; not looked at with a `channel`.
    router:
        The router of all calls; empty means `default`.
    timeout_seconds:
        Deadline of each call, its retries included; above 0.
    retries:
        How often a call that found the service UNAVAILABLE, or too busy, is sent again at most; 0 or more.
    baseline_arm:
        The arm to run while the service is out of reach (UNAVAILABLE, DEADLINE_EXCEEDED, or too busy). None: the
        error is raised.
    token:
        Bearer token, where the server asks for one. ValueError where it would travel in plaintext beyond this
        machine.
    channel:
        A channel of the caller's, who also closes it and sees to it that a token is safe on it.
    credentials:
        TLS credentials, with a certificate of the caller's own for instance; without these and
        `root_certificates`: plaintext. Not looked at with a `channel`.
    root_certificates:
        The authorities, in PEM, one of which the server's certificate has to be of: TLS.
    """

    def __init__(
        self,
        target: str = _DEFAULT_TARGET,
        *,
        router: str = "",
        timeout_seconds: float = 5.0,
        retries: int = 4,
        baseline_arm: str | None = None,
        token: str = "",
        channel: grpc.Channel | None = None,
        credentials: grpc.ChannelCredentials | None = None,
        root_certificates: bytes | None = None,
    ) -> None:
        self._settings = _Settings(router, timeout_seconds, retries, baseline_arm, token)
        self._random = Random()
        self._owned = channel is None
        if channel is None:
            credentials = channels.credentials_of(
                target, token=token, credentials=credentials, root_certificates=root_certificates
            )
            if credentials is None:
                channel = grpc.insecure_channel(target, options=channels.OPTIONS)
            else:
                channel = grpc.secure_channel(target, credentials, options=channels.OPTIONS)
        self.channel = channel
        self.metadata = self._settings.metadata
        """What goes with every call: the token."""
        self.routing = routing_pb2_grpc.RoutingStub(channel)
        self.admin = admin_pb2_grpc.AdminStub(channel)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Closes the channel, unless it is the caller's."""
        if self._owned:
            self.channel.close()

    def select(
        self,
        features: Features | None = None,
        *,
        session_id: str = "",
        request_id: str = "",
        allow: Iterable[str] = (),
        deny: Iterable[str] = (),
        required_capabilities: Iterable[str] = (),
        max_cost_usd: float | None = None,
        pinned_arm: str = "",
        context_tokens: int | None = None,
    ) -> pb.SelectResponse:
        """The arm for a session: a new decision, or the one that stands.

        A plain string in `features` is a category, `Text(...)` is text, a sequence of numbers an embedding;
        an unknown feature is left out. The rest is as in `SelectRequest`. With a `baseline_arm` and the
        service out of reach, the answer is that arm (or `pinned_arm`), unlogged, unless `allow` or `deny`
        forbid it. TypeError for a feature of no kind.
        """
        request = requests.select_request(
            features,
            router=self._settings.router,
            session_id=session_id,
            request_id=request_id,
            allow=allow,
            deny=deny,
            required_capabilities=required_capabilities,
            max_cost_usd=max_cost_usd,
            pinned_arm=pinned_arm,
            context_tokens=context_tokens,
        )
        try:
            return self.call(self.routing.Select, request)
        except grpc.RpcError as error:
            fallback = requests.baseline(request, self._settings.baseline_arm)
            if fallback is None or not requests.is_out_of_reach(error):
                raise
            return fallback

    def batch_select(self, selects: Iterable[pb.SelectRequest]) -> list[pb.BatchSelectResult]:
        """Many sessions at once: requests of `select_request`, each answered by a response or a status.

        With a `baseline_arm` and the service out of reach, each item is answered as `select` would.
        """
        batch = requests.batch_select_request(self._settings.router, selects)
        try:
            response = self.call(self.routing.BatchSelect, batch)
        except grpc.RpcError as error:
            fallback = requests.batch_baselines(batch, self._settings.baseline_arm, error)
            if fallback is None or not requests.is_out_of_reach(error):
                raise
            return fallback
        return list(response.responses)

    def escalate(
        self,
        choice: pb.SelectResponse | str,
        *,
        reason: pb.EscalationReason.ValueType,
        cost_usd: float | None = None,
        usage: pb.Usage | None = None,
        latency_seconds: float | None = None,
        features: Features | None = None,
        required_capabilities: Iterable[str] = (),
        context_tokens: int | None = None,
        endpoint: str = "",
        request_id: str = "",
    ) -> pb.SelectResponse | None:
        """Leaves an attempt, given as its choice or `decision_id`. The next choice, or None when exhausted.

        `cost_usd` (dollars), `usage` and `latency_seconds` are what the attempt took in all; `features` are
        those that changed, `required_capabilities` and `context_tokens` what is needed from here on. The rest is
        as in `EscalateRequest`. None for an unlogged choice.
        """
        decision_id = requests.decision_of(choice)
        if not decision_id:
            return None
        request = requests.escalate_request(
            router=self._settings.router,
            decision_id=decision_id,
            request_id=request_id,
            reason=reason,
            cost_usd=cost_usd,
            usage=usage,
            latency_seconds=latency_seconds,
            features=features,
            required_capabilities=required_capabilities,
            context_tokens=context_tokens,
            endpoint=endpoint,
        )
        response = self.call(self.routing.Escalate, request)
        return response.next if response.HasField("next") else None

    def report_progress(
        self, choice: pb.SelectResponse | str, signals: pb.ProgressSignals, *, request_id: str = ""
    ) -> pb.ReportProgressResponse:
        """Tells how an attempt is going, given as its choice or `decision_id`, and gets advice.

        `signals` count from the attempt's beginning. CONTINUE for an unlogged choice.
        """
        decision_id = requests.decision_of(choice)
        if not decision_id:
            return pb.ReportProgressResponse(action=pb.PROGRESS_ACTION_CONTINUE, propensity=1.0)
        request = requests.progress_request(
            router=self._settings.router, decision_id=decision_id, request_id=request_id, signals=signals
        )
        return self.call(self.routing.ReportProgress, request)

    def reward(
        self,
        *,
        decision_id: str | None = None,
        session_id: str | None = None,
        success: float | None = None,
        cost_usd: float | None = None,
        usage: pb.Usage | None = None,
        latency_seconds: float | None = None,
        served_arm: str = "",
        metrics: Mapping[str, float] | None = None,
        revision: int | None = None,
        final: bool = False,
        request_id: str = "",
    ) -> int | None:
        """Reports an outcome or a part of it; the revision under which it was taken.

        By `decision_id` dollars, usage and seconds are the attempt's totals, by `session_id` the session's;
        ValueError unless exactly one is given. `success` is 0 to 1, `final` closes the session. The rest is
        as in `RewardRequest`. None, and nothing sent, when the id is that of an unlogged choice, which is
        empty.
        """
        if requests.is_unlogged(decision_id, session_id):
            return None
        request = requests.reward_request(
            router=self._settings.router,
            decision_id=decision_id or "",
            session_id=session_id or "",
            request_id=request_id,
            success=success,
            cost_usd=cost_usd,
            usage=usage,
            latency_seconds=latency_seconds,
            served_arm=served_arm,
            metrics=metrics,
            revision=revision,
            final=final,
        )
        return self.call(self.routing.Reward, request).accepted_revision

    def get_session(self, session_id: str) -> pb.GetSessionResponse:
        """Everything known about a session."""
        request = pb.GetSessionRequest(router=self._settings.router, session_id=session_id)
        return self.call(self.routing.GetSession, request)

    def get_decision(self, decision_id: str) -> pb.GetDecisionResponse:
        """Everything known about a decision, and whether the log confirms it."""
        request = pb.GetDecisionRequest(router=self._settings.router, decision_id=decision_id)
        return self.call(self.routing.GetDecision, request)

    def list_arms(self, *, include_retired: bool = False) -> list[admin_pb2.Arm]:
        """The router's arms."""
        request = admin_pb2.ListArmsRequest(router=self._settings.router, include_retired=include_retired)
        return list(self.call(self.admin.ListArms, request).arms)

    def put_arm(self, arm: admin_pb2.Arm, *, request_id: str = "") -> admin_pb2.Arm:
        """Adds an arm or replaces its settings; the arm as the router has it."""
        request = admin_pb2.PutArmRequest(router=self._settings.router, request_id=request_id, arm=arm)
        return self.call(self.admin.PutArm, request).arm

    def call(self, method: "grpc.UnaryUnaryMultiCallable[_Request, _Response]", request: _Request) -> _Response:
        """Sends a request to a method of `routing` or `admin` until it is answered, refused, or out of retries or time.

        A change without a request id gets one, so that sending it again is safe. The `router` is as in `request`.
        """
        request = requests.repeatable(request)
        deadline = time.monotonic() + self._settings.timeout_seconds
        rest = requests.pauses(self._settings.retries, self._random)
        while True:
            left = deadline - time.monotonic()
            try:
                return method(request, timeout=left, metadata=self.metadata)
            except grpc.RpcError as error:
                pause = requests.next_pause(error, rest, deadline - time.monotonic())
                if pause is None:
                    raise
            time.sleep(pause)


class AsyncClient:
    """`Client` for asyncio: the same arguments, methods and answers, to be awaited, in one event loop."""

    def __init__(
        self,
        target: str = _DEFAULT_TARGET,
        *,
        router: str = "",
        timeout_seconds: float = 5.0,
        retries: int = 4,
        baseline_arm: str | None = None,
        token: str = "",
        channel: grpc.aio.Channel | None = None,
        credentials: grpc.ChannelCredentials | None = None,
        root_certificates: bytes | None = None,
    ) -> None:
        self._settings = _Settings(router, timeout_seconds, retries, baseline_arm, token)
        self._random = Random()
        self._owned = channel is None
        if channel is None:
            credentials = channels.credentials_of(
                target, token=token, credentials=credentials, root_certificates=root_certificates
            )
            if credentials is None:
                channel = grpc.aio.insecure_channel(target, options=channels.OPTIONS)
            else:
                channel = grpc.aio.secure_channel(target, credentials, options=channels.OPTIONS)
        self.channel = channel
        self.metadata = self._settings.metadata
        """What goes with every call: the token."""
        self.routing = routing_pb2_grpc.RoutingStub(channel)
        self.admin = admin_pb2_grpc.AdminStub(channel)

    async def __aenter__(self) -> Self:
        return self

    async def __aexit__(
        self, kind: type[BaseException] | None, error: BaseException | None, traceback: TracebackType | None
    ) -> None:
        await self.close()

    async def close(self) -> None:
        """Closes the channel, unless it is the caller's."""
        if self._owned:
            await self.channel.close(None)

    async def select(
        self,
        features: Features | None = None,
        *,
        session_id: str = "",
        request_id: str = "",
        allow: Iterable[str] = (),
        deny: Iterable[str] = (),
        required_capabilities: Iterable[str] = (),
        max_cost_usd: float | None = None,
        pinned_arm: str = "",
        context_tokens: int | None = None,
    ) -> pb.SelectResponse:
        """As `Client.select`."""
        request = requests.select_request(
            features,
            router=self._settings.router,
            session_id=session_id,
            request_id=request_id,
            allow=allow,
            deny=deny,
            required_capabilities=required_capabilities,
            max_cost_usd=max_cost_usd,
            pinned_arm=pinned_arm,
            context_tokens=context_tokens,
        )
        try:
            return await self.call(self.routing.Select, request)
        except grpc.RpcError as error:
            fallback = requests.baseline(request, self._settings.baseline_arm)
            if fallback is None or not requests.is_out_of_reach(error):
                raise
            return fallback

    async def batch_select(self, selects: Iterable[pb.SelectRequest]) -> list[pb.BatchSelectResult]:
        """As `Client.batch_select`."""
        batch = requests.batch_select_request(self._settings.router, selects)
        try:
            response = await self.call(self.routing.BatchSelect, batch)
        except grpc.RpcError as error:
            fallback = requests.batch_baselines(batch, self._settings.baseline_arm, error)
            if fallback is None or not requests.is_out_of_reach(error):
                raise
            return fallback
        return list(response.responses)

    async def escalate(
        self,
        choice: pb.SelectResponse | str,
        *,
        reason: pb.EscalationReason.ValueType,
        cost_usd: float | None = None,
        usage: pb.Usage | None = None,
        latency_seconds: float | None = None,
        features: Features | None = None,
        required_capabilities: Iterable[str] = (),
        context_tokens: int | None = None,
        endpoint: str = "",
        request_id: str = "",
    ) -> pb.SelectResponse | None:
        """As `Client.escalate`."""
        decision_id = requests.decision_of(choice)
        if not decision_id:
            return None
        request = requests.escalate_request(
            router=self._settings.router,
            decision_id=decision_id,
            request_id=request_id,
            reason=reason,
            cost_usd=cost_usd,
            usage=usage,
            latency_seconds=latency_seconds,
            features=features,
            required_capabilities=required_capabilities,
            context_tokens=context_tokens,
            endpoint=endpoint,
        )
        response = await self.call(self.routing.Escalate, request)
        return response.next if response.HasField("next") else None

    async def report_progress(
        self, choice: pb.SelectResponse | str, signals: pb.ProgressSignals, *, request_id: str = ""
    ) -> pb.ReportProgressResponse:
        """As `Client.report_progress`."""
        decision_id = requests.decision_of(choice)
        if not decision_id:
            return pb.ReportProgressResponse(action=pb.PROGRESS_ACTION_CONTINUE, propensity=1.0)
        request = requests.progress_request(
            router=self._settings.router, decision_id=decision_id, request_id=request_id, signals=signals
        )
        return await self.call(self.routing.ReportProgress, request)

    async def reward(
        self,
        *,
        decision_id: str | None = None,
        session_id: str | None = None,
        success: float | None = None,
        cost_usd: float | None = None,
        usage: pb.Usage | None = None,
        latency_seconds: float | None = None,
        served_arm: str = "",
        metrics: Mapping[str, float] | None = None,
        revision: int | None = None,
        final: bool = False,
        request_id: str = "",
    ) -> int | None:
        """As `Client.reward`."""
        if requests.is_unlogged(decision_id, session_id):
            return None
        request = requests.reward_request(
            router=self._settings.router,
            decision_id=decision_id or "",
            session_id=session_id or "",
            request_id=request_id,
            success=success,
            cost_usd=cost_usd,
            usage=usage,
            latency_seconds=latency_seconds,
            served_arm=served_arm,
            metrics=metrics,
            revision=revision,
            final=final,
        )
        return (await self.call(self.routing.Reward, request)).accepted_revision

    async def get_session(self, session_id: str) -> pb.GetSessionResponse:
        """As `Client.get_session`."""
        request = pb.GetSessionRequest(router=self._settings.router, session_id=session_id)
        return await self.call(self.routing.GetSession, request)

    async def get_decision(self, decision_id: str) -> pb.GetDecisionResponse:
        """As `Client.get_decision`."""
        request = pb.GetDecisionRequest(router=self._settings.router, decision_id=decision_id)
        return await self.call(self.routing.GetDecision, request)

    async def list_arms(self, *, include_retired: bool = False) -> list[admin_pb2.Arm]:
        """As `Client.list_arms`."""
        request = admin_pb2.ListArmsRequest(router=self._settings.router, include_retired=include_retired)
        return list((await self.call(self.admin.ListArms, request)).arms)

    async def put_arm(self, arm: admin_pb2.Arm, *, request_id: str = "") -> admin_pb2.Arm:
        """As `Client.put_arm`."""
        request = admin_pb2.PutArmRequest(router=self._settings.router, request_id=request_id, arm=arm)
        return (await self.call(self.admin.PutArm, request)).arm

    async def call(self, method: grpc.aio.UnaryUnaryMultiCallable[_Request, _Response], request: _Request) -> _Response:
        """As `Client.call`."""
        request = requests.repeatable(request)
        deadline = time.monotonic() + self._settings.timeout_seconds
        rest = requests.pauses(self._settings.retries, self._random)
        while True:
            left = deadline - time.monotonic()
            try:
                return await method(request, timeout=left, metadata=self.metadata)
            except grpc.RpcError as error:
                pause = requests.next_pause(error, rest, deadline - time.monotonic())
                if pause is None:
                    raise
            await asyncio.sleep(pause)
