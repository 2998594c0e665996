"""The Admin service: messages in, commands to the administration, messages out."""

# ruff: noqa: N802 - methods are named by the protos

from typing import Any, TypeAlias

import grpc.aio

from pointsman.v1 import admin_pb2 as pb
from pointsman.v1 import admin_pb2_grpc
from server.administration import Administration
from server.commands import ArmStands, PolicyStands, RouterStands
from server.convert import admin as convert
from server.convert.responses import timestamp
from server.engine import Engine
from server.release import RELEASE

_Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


class Admin(admin_pb2_grpc.AdminServicer):
    """What the methods mean stands in admin.proto. They raise; `server.rpc` makes statuses of it.

    A change is answered when the next decision will be taken under it; what is shown is as of the call, whichever
    replica made it so.
    """

    def __init__(self, engine: Engine, administration: Administration, changes: convert.Changes) -> None:
        self._engine = engine
        self._administration = administration
        self._changes = changes

    # --- routers ------------------------------------------------------------------------------------------------

    async def CreateRouter(self, request: pb.CreateRouterRequest, context: _Context) -> pb.CreateRouterResponse:
        """See the proto."""
        repeat = self._changes.repeat("CreateRouter", request)
        stands = await self._engine.answer(
            repeat, lambda: self._administration.create_router(self._changes.create_router(request))
        )
        assert isinstance(stands, RouterStands)
        await self._administration.decides(stands.settings.id)
        return pb.CreateRouterResponse(router=self._router(stands))

    async def GetRouter(self, request: pb.GetRouterRequest, context: _Context) -> pb.GetRouterResponse:
        """See the proto."""
        await self._engine.current()
        view = self._administration.router(self._changes.router(request.router))
        return pb.GetRouterResponse(router=convert.router_with_state(view))

    async def UpdateRouter(self, request: pb.UpdateRouterRequest, context: _Context) -> pb.UpdateRouterResponse:
        """See the proto."""
        repeat = self._changes.repeat("UpdateRouter", request)
        stands = await self._engine.answer(
            repeat, lambda: self._administration.update_router(self._changes.update_router(request))
        )
        assert isinstance(stands, RouterStands)
        return pb.UpdateRouterResponse(router=self._router(stands))

    async def ListRouters(self, request: pb.ListRoutersRequest, context: _Context) -> pb.ListRoutersResponse:
        """See the proto."""
        await self._engine.current()
        only = self._changes.id("router", request.router)
        views = [self._administration.router(only)] if only else self._administration.routers()
        return pb.ListRoutersResponse(
            routers=[convert.router_with_state(view) for view in views],
            at=timestamp(self._engine.now_us()),
            version=RELEASE,
        )

    async def SetMode(self, request: pb.SetModeRequest, context: _Context) -> pb.SetModeResponse:
        """See the proto."""
        repeat = self._changes.repeat("SetMode", request)
        stands = await self._engine.answer(
            repeat, lambda: self._administration.set_mode(self._changes.set_mode(request))
        )
        assert isinstance(stands, RouterStands)
        return pb.SetModeResponse(router=self._router(stands))

    # --- arms ---------------------------------------------------------------------------------------------------

    async def PutArm(self, request: pb.PutArmRequest, context: _Context) -> pb.PutArmResponse:
        """See the proto."""
        repeat = self._changes.repeat("PutArm", request)
        stands = await self._engine.answer(repeat, lambda: self._administration.put_arm(self._changes.put_arm(request)))
        assert isinstance(stands, ArmStands)
        await self._administration.offered(self._changes.router(request.router), stands.arm.id)
        return pb.PutArmResponse(arm=convert.arm(stands))

    async def ListArms(self, request: pb.ListArmsRequest, context: _Context) -> pb.ListArmsResponse:
        """See the proto."""
        await self._engine.current()
        arms = self._administration.arms(self._changes.router(request.router))
        return pb.ListArmsResponse(
            arms=[convert.arm(arm) for arm in arms if request.include_retired or not arm.arm.retired]
        )

    async def RetireArm(self, request: pb.RetireArmRequest, context: _Context) -> pb.RetireArmResponse:
        """See the proto."""
        repeat = self._changes.repeat("RetireArm", request)
        stands = await self._engine.answer(
            repeat, lambda: self._administration.retire_arm(self._changes.retire_arm(request))
        )
        assert isinstance(stands, ArmStands)
        return pb.RetireArmResponse(arm=convert.arm(stands))

    async def SetAvailability(
        self, request: pb.SetAvailabilityRequest, context: _Context
    ) -> pb.SetAvailabilityResponse:
        """See the proto."""
        repeat = self._changes.repeat("SetAvailability", request)
        stands = await self._engine.answer(
            repeat, lambda: self._administration.set_availability(self._changes.set_availability(request))
        )
        assert isinstance(stands, ArmStands)
        return pb.SetAvailabilityResponse(arm=convert.arm(stands))

    # --- policies -----------------------------------------------------------------------------------------------

    async def CreatePolicy(self, request: pb.CreatePolicyRequest, context: _Context) -> pb.CreatePolicyResponse:
        """See the proto."""
        repeat = self._changes.repeat("CreatePolicy", request)
        stands = await self._engine.answer(
            repeat, lambda: self._administration.create_policy(self._changes.create_policy(request))
        )
        assert isinstance(stands, PolicyStands)
        return pb.CreatePolicyResponse(policy=self._policy(request.router, stands))

    async def ListPolicies(self, request: pb.ListPoliciesRequest, context: _Context) -> pb.ListPoliciesResponse:
        """See the proto."""
        await self._engine.current()
        policies = self._administration.policies(self._changes.router(request.router))
        return pb.ListPoliciesResponse(policies=[self._policy(request.router, policy) for policy in policies])

    async def StartShadow(self, request: pb.StartShadowRequest, context: _Context) -> pb.StartShadowResponse:
        """See the proto."""
        repeat = self._changes.repeat("StartShadow", request)
        stands = await self._engine.answer(
            repeat, lambda: self._administration.start_shadow(self._changes.start_shadow(request))
        )
        assert isinstance(stands, PolicyStands)
        await self._administration.learns(self._changes.router(request.router), stands.policy.version)
        return pb.StartShadowResponse(policy=self._policy(request.router, stands))

    async def StartCanary(self, request: pb.StartCanaryRequest, context: _Context) -> pb.StartCanaryResponse:
        """See the proto."""
        repeat = self._changes.repeat("StartCanary", request)
        stands = await self._engine.answer(
            repeat, lambda: self._administration.start_canary(self._changes.start_canary(request))
        )
        assert isinstance(stands, PolicyStands)
        await self._administration.learns(self._changes.router(request.router), stands.policy.version)
        return pb.StartCanaryResponse(policy=self._policy(request.router, stands))

    async def PromotePolicy(self, request: pb.PromotePolicyRequest, context: _Context) -> pb.PromotePolicyResponse:
        """See the proto."""
        repeat = self._changes.repeat("PromotePolicy", request)
        stands = await self._engine.answer(
            repeat, lambda: self._administration.promote_policy(self._changes.promote_policy(request))
        )
        assert isinstance(stands, PolicyStands)
        await self._administration.decides(self._changes.router(request.router))
        return pb.PromotePolicyResponse(policy=self._policy(request.router, stands))

    async def RollBackPolicy(self, request: pb.RollBackPolicyRequest, context: _Context) -> pb.RollBackPolicyResponse:
        """See the proto."""
        repeat = self._changes.repeat("RollBackPolicy", request)
        stands = await self._engine.answer(
            repeat, lambda: self._administration.roll_back_policy(self._changes.roll_back_policy(request))
        )
        assert isinstance(stands, PolicyStands)
        await self._administration.decides(self._changes.router(request.router))
        return pb.RollBackPolicyResponse(policy=self._policy(request.router, stands))

    def _router(self, stands: RouterStands) -> pb.Router:
        return convert.router(stands.settings, self._administration.created_us(stands.settings.id))

    def _policy(self, router: str, stands: PolicyStands) -> pb.Policy:
        return convert.policy(stands, self._administration.created_us(self._changes.router(router)))
