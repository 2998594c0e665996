"""The Routing service: messages in, commands to the engine, messages out."""

# ruff: noqa: N802 - methods are named by the protos

import asyncio
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any, TypeAlias, TypeVar

import grpc.aio

from pointsman.v1 import routing_pb2 as pb
from pointsman.v1 import routing_pb2_grpc
from server.commands import Accepted, Advised, Choice, Moved
from server.convert import responses
from server.convert.requests import Requests
from server.engine import Engine
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
        return await self._select(request)

    async def BatchSelect(self, request: pb.BatchSelectRequest, context: _Context) -> pb.BatchSelectResponse:
        """See the proto."""
        results = await asyncio.gather(*map(self._item, self._requests.batch(request)))
        return pb.BatchSelectResponse(responses=results)

    async def _item(self, item: pb.SelectRequest) -> pb.BatchSelectResult:
        try:
            return pb.BatchSelectResult(response=await self._select(item))
        except Exception as error:
            return pb.BatchSelectResult(status=status_of(error))

    async def _select(self, request: pb.SelectRequest) -> pb.SelectResponse:
        repeat = self._requests.repeat("Select", request)
        choice = await self._engine.answer(repeat, lambda: self._engine.select(self._requests.select(request)))
        assert isinstance(choice, Choice)
        return responses.select_response(choice)

    async def Escalate(self, request: pb.EscalateRequest, context: _Context) -> pb.EscalateResponse:
        """See the proto."""
        repeat = self._requests.repeat("Escalate", request)
        moved = await self._engine.answer(repeat, lambda: self._engine.escalate(self._requests.escalate(request)))
        assert isinstance(moved, Moved)
        return responses.escalate_response(moved)

    async def ReportProgress(self, request: pb.ReportProgressRequest, context: _Context) -> pb.ReportProgressResponse:
        """See the proto."""
        repeat = self._requests.repeat("ReportProgress", request)
        advised = await self._engine.answer(
            repeat, lambda: self._engine.report_progress(self._requests.report_progress(request))
        )
        assert isinstance(advised, Advised)
        return responses.progress_response(advised)

    async def Reward(self, request: pb.RewardRequest, context: _Context) -> pb.RewardResponse:
        """See the proto."""
        repeat = self._requests.repeat("Reward", request)
        accepted = await self._engine.answer(repeat, lambda: self._engine.reward(self._requests.reward(request)))
        assert isinstance(accepted, Accepted)
        return pb.RewardResponse(accepted_revision=accepted.revision)

    async def GetSession(self, request: pb.GetSessionRequest, context: _Context) -> pb.GetSessionResponse:
        """See the proto."""
        router = self._requests.router(request.router)
        session_id = self._requests.required_id("session_id", request.session_id)
        return responses.get_session_response(await self._read(lambda: self._views.session(router, session_id)))

    async def GetDecision(self, request: pb.GetDecisionRequest, context: _Context) -> pb.GetDecisionResponse:
        """See the proto."""
        router = self._requests.router(request.router)
        decision_id = self._requests.required_id("decision_id", request.decision_id)
        return responses.get_decision_response(await self._read(lambda: self._views.decision(router, decision_id)))

    async def _read(self, view: Callable[[], _View]) -> _View:
        return await asyncio.get_running_loop().run_in_executor(self._thread, view)
