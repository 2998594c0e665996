"""The Routing service: messages in, commands to the engine, messages out."""

# ruff: noqa: N802 - methods are named by the protos

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias, TypeVar

import grpc.aio

from bandit.errors import PointsmanError
from pointsman.v1 import routing_pb2 as pb
from pointsman.v1 import routing_pb2_grpc
from server.auth.access import calling
from server.auth.grants import Scope
from server.commands import Accepted, Advised, Choice, Moved
from server.convert import responses
from server.convert.requests import Requests
from server.engine import Engine, reply_of
from server.rounds import Asked
from server.sessions import SessionKey
from server.status import status_of
from server.views import Views

_Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"
_View = TypeVar("_View")


class Routing(routing_pb2_grpc.RoutingServicer):
    """What the methods mean stands in routing.proto. They raise; `server.rpc` makes statuses of it."""

    def __init__(self, engine: Engine, views: Views, requests: Requests) -> None:
        self._engine = engine
        self._views = views
        self._requests = requests
        # Confirming an old decision may mean folding a part of the log anew: not on the event loop.
        self._thread = ThreadPoolExecutor(max_workers=1, thread_name_prefix="views")

    def close(self) -> None:
        """Gives the thread back."""
        self._thread.shutdown()

    async def Select(self, request: pb.SelectRequest, context: _Context) -> pb.SelectResponse:
        """See the proto."""
        asked = self._select(request)
        await self._engine.answer_all([asked])
        return _choice(asked)

    async def BatchSelect(self, request: pb.BatchSelectRequest, context: _Context) -> pb.BatchSelectResponse:
        """See the proto."""
        items = [self._item(item) for item in self._requests.batch(request)]
        if asked := [item for item in items if isinstance(item, Asked)]:
            await self._engine.answer_all(asked)
        return pb.BatchSelectResponse(responses=map(_result, items))

    def _item(self, request: pb.SelectRequest) -> Asked | PointsmanError:
        try:
            calling.get().require(Scope.ROUTE, request.router)
            return self._select(request)
        except PointsmanError as error:
            return error

    def _select(self, request: pb.SelectRequest) -> Asked:
        return Asked(
            repeat=self._requests.repeat("Select", request),
            case=lambda: self._engine.select(self._requests.select(request)),
            session=_session(request),
            begin_session=calling.get().begin_session,
        )

    async def Escalate(self, request: pb.EscalateRequest, context: _Context) -> pb.EscalateResponse:
        """See the proto."""
        repeat = self._requests.repeat("Escalate", request)
        moved = await self._engine.answer(
            repeat, lambda: self._engine.escalate(self._requests.escalate(request)), _session(request)
        )
        assert isinstance(moved, Moved)
        return responses.escalate_response(moved)

    async def ReportProgress(self, request: pb.ReportProgressRequest, context: _Context) -> pb.ReportProgressResponse:
        """See the proto."""
        repeat = self._requests.repeat("ReportProgress", request)
        advised = await self._engine.answer(
            repeat, lambda: self._engine.report_progress(self._requests.report_progress(request)), _session(request)
        )
        assert isinstance(advised, Advised)
        return responses.progress_response(advised)

    async def Reward(self, request: pb.RewardRequest, context: _Context) -> pb.RewardResponse:
        """See the proto."""
        asked = self.rewarding(request)
        await self._engine.answer_all([asked])
        accepted = reply_of(asked)
        assert isinstance(accepted, Accepted)
        return pb.RewardResponse(accepted_revision=accepted.revision)

    def rewarding(self, request: pb.RewardRequest) -> Asked:
        """What a Reward asks of the engine. Raises InvalidInput."""
        return Asked(
            repeat=self._requests.repeat("Reward", request),
            case=lambda: self._engine.reward(self._requests.reward(request)),
            session=_session(request),
        )

    async def GetSession(self, request: pb.GetSessionRequest, context: _Context) -> pb.GetSessionResponse:
        """See the proto."""
        await self._engine.current()
        router = self._requests.router(request.router)
        session_id = self._requests.required_id("session_id", request.session_id)
        return responses.get_session_response(await self._read(lambda: self._views.session(router, session_id)))

    async def GetDecision(self, request: pb.GetDecisionRequest, context: _Context) -> pb.GetDecisionResponse:
        """See the proto."""
        await self._engine.current()
        router = self._requests.router(request.router)
        decision_id = self._requests.required_id("decision_id", request.decision_id)
        return responses.get_decision_response(await self._read(lambda: self._views.decision(router, decision_id)))

    async def _read(self, view: Callable[[], _View]) -> _View:
        return await asyncio.get_running_loop().run_in_executor(self._thread, view)


def _session(
    request: pb.SelectRequest | pb.EscalateRequest | pb.ReportProgressRequest | pb.RewardRequest,
) -> SessionKey | None:
    """The session that a request names, if any."""
    return (request.router, request.session_id) if request.session_id else None


def _choice(asked: Asked) -> pb.SelectResponse:
    reply = reply_of(asked)
    assert isinstance(reply, Choice)
    return responses.select_response(reply)


def _result(item: Asked | PointsmanError) -> pb.BatchSelectResult:
    if isinstance(item, PointsmanError):
        return pb.BatchSelectResult(status=status_of(item))
    try:
        return pb.BatchSelectResult(response=_choice(item))
    except Exception as error:
        return pb.BatchSelectResult(status=status_of(error))
