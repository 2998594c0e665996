"""The Admin service, as far as it goes: routers are read, arms are put and listed."""

# ruff: noqa: N802 - methods are named by the protos

from typing import Any, TypeAlias

import grpc.aio

from pointsman.v1 import admin_pb2 as pb
from pointsman.v1 import admin_pb2_grpc
from server.commands import ArmStands
from server.convert import responses
from server.convert.requests import Requests
from server.engine import Engine

_Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class Admin(admin_pb2_grpc.AdminServicer):
    """What the methods mean stands in admin.proto. They raise; `server.rpc` makes statuses of it.

    Methods that are not here yet are the generated ones, which say UNIMPLEMENTED.
    """

    def __init__(self, engine: Engine, requests: Requests) -> None:
        self._engine = engine
        self._requests = requests

    async def GetRouter(self, request: pb.GetRouterRequest, context: _Context) -> pb.GetRouterResponse:
        """See the proto."""
        router = self._engine.router(self._requests.router(request.router))
        return pb.GetRouterResponse(router=responses.router(router))

    async def ListRouters(self, request: pb.ListRoutersRequest, context: _Context) -> pb.ListRoutersResponse:
        """See the proto."""
        if only := self._requests.id("router", request.router):
            return pb.ListRoutersResponse(routers=[responses.router(self._engine.router(only))])
        return pb.ListRoutersResponse(routers=[responses.router(router) for router in self._engine.routers()])

    async def PutArm(self, request: pb.PutArmRequest, context: _Context) -> pb.PutArmResponse:
        """See the proto. Answers when the arm is offered."""
        repeat = self._requests.repeat("PutArm", request)
        stands = await self._engine.answer(repeat, lambda: self._engine.put_arm(self._requests.put_arm(request)))
        assert isinstance(stands, ArmStands)
        await self._engine.offers(request.router, stands.arm.id)
        return pb.PutArmResponse(arm=responses.arm(stands.arm))

    async def ListArms(self, request: pb.ListArmsRequest, context: _Context) -> pb.ListArmsResponse:
        """See the proto."""
        arms = self._engine.arms(self._requests.router(request.router))
        return pb.ListArmsResponse(
            arms=[responses.arm(arm) for arm in arms if request.include_retired or not arm.retired]
        )
