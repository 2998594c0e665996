"""The JSON that the page is made of: what it shows, and what it changes.

What gRPC tells is told here by the same messages as JSON; figures over the whole log come from the keeper.
"""

from collections.abc import Awaitable, Callable, Mapping
from importlib import metadata
from typing import Any

import msgspec
from aiohttp import web
from google.protobuf import json_format
from google.protobuf.message import Message

from bandit.errors import Unknown
from pointsman.v1 import admin_pb2
from pointsman.v1 import routing_pb2 as pb
from server.admin import Admin
from server.administration import Administration
from server.auth.access import Unauthenticated, calling
from server.auth.grants import Scope
from server.convert.checks import DEFAULT_ROUTER
from server.dashboard import assets
from server.dashboard.doors import Doors, Refused
from server.dashboard.keeping import Keeping
from server.dashboard.ledger import RANGES, RECENT
from server.engine import Engine
from server.guard import Guard
from server.routing import Routing
from server.web import Handler, Routes

_NO_CONTEXT: Any = None
"""The handlers of the Admin and Routing services take one and do not look at it."""
_FRESH = {"Cache-Control": "no-store"}

Act = Callable[[Any, Any], Awaitable[Message]]


class Api:
    """Answers the page."""

    def __init__(
        self,
        doors: Doors,
        *,
        routing: Routing,
        admin: Admin,
        administration: Administration,
        guard: Guard,
        engine: Engine,
        keeping: Keeping,
        healthy: Callable[[], bool],
        whole: Callable[[], bool | None],
    ) -> None:
        """`whole` tells whether the log was found so since the start; None while that is not known."""
        self._doors = doors
        self._routing = routing
        self._admin = admin
        self._administration = administration
        self._guard = guard
        self._engine = engine
        self._keeping = keeping
        self._healthy = healthy
        self._whole = whole
        self._version = metadata.version("pointsman")
        self._acts: Mapping[str, tuple[type[Message], Act]] = {
            "availability": (admin_pb2.SetAvailabilityRequest, admin.SetAvailability),
            "prices": (admin_pb2.PutArmRequest, self._put_prices),
            "mode": (admin_pb2.SetModeRequest, admin.SetMode),
            "create": (admin_pb2.CreatePolicyRequest, admin.CreatePolicy),
            "shadow": (admin_pb2.StartShadowRequest, admin.StartShadow),
            "canary": (admin_pb2.StartCanaryRequest, admin.StartCanary),
            "promote": (admin_pb2.PromotePolicyRequest, admin.PromotePolicy),
            "roll-back": (admin_pb2.RollBackPolicyRequest, admin.RollBackPolicy),
        }

    def routes(self) -> Routes:
        """The page and its JSON."""
        guarded = self._doors.guarded
        open_to_all: dict[str, Handler] = {**assets.handlers(), "/api/state": self.state}
        asked: dict[str, Handler] = {
            "/api/router": self.router,
            "/api/overview": self.overview,
            "/api/decisions": self.decisions,
            "/api/sessions": self._kept("open"),
            "/api/shadows": self._kept("shadows"),
            "/api/find": self.find,
            "/api/decision": self.decision,
            "/api/session": self.session,
        }
        return [
            *(web.get(path, guarded(handler, known=False)) for path, handler in open_to_all.items()),
            *(web.get(path, guarded(handler)) for path, handler in asked.items()),
            web.post("/api/sign-in", guarded(self._doors.sign_in, known=False)),
            web.post("/api/sign-out", guarded(self._doors.sign_out, known=False)),
            web.post("/api/act/{act}", guarded(self.act)),
        ]

    # --- what there is ------------------------------------------------------------------------------------------

    async def state(self, request: web.Request) -> web.Response:
        """What the page has to know before it shows anything: who looks, how the service is, what routers there are."""
        told: dict[str, Any] = {"version": self._version, "csrf": self._doors.csrf_token(request)}
        try:
            caller = self._doors.caller(request)
        except Unauthenticated:
            return web.json_response({**told, "caller": None}, headers=_FRESH)
        routers = [
            {"id": view.settings.id, "mode": view.settings.mode.value, "act": caller.may(Scope.ADMIN, view.settings.id)}
            for view in self._administration.routers()
            if caller.may(Scope.READ, view.settings.id)
        ]
        told |= {
            "caller": {"name": caller.name, "signed_in": bool(caller.token_id)},
            "serving": self._healthy(),
            "trouble": self._engine.trouble,
            "whole": self._whole(),
            "routers": routers,
        }
        return web.json_response(told, headers=_FRESH)

    async def router(self, request: web.Request) -> web.Response:
        """A router: its settings and state, arms and policies, and how the evidence on its canary has grown."""
        router = self._readable(request)
        got = await self._admin.GetRouter(admin_pb2.GetRouterRequest(router=router), _NO_CONTEXT)
        arms = await self._admin.ListArms(admin_pb2.ListArmsRequest(router=router, include_retired=True), _NO_CONTEXT)
        policies = await self._admin.ListPolicies(admin_pb2.ListPoliciesRequest(router=router), _NO_CONTEXT)
        # GetRouter tells what the guard knows of candidates; ListPolicies all the others.
        evident = {policy.policy_version: policy for policy in got.router.candidates}
        return web.json_response(
            {
                "router": _plain(got.router),
                "arms": [_plain(arm) for arm in arms.arms],
                "policies": [
                    {
                        **_plain(evident.get(policy.policy_version, policy)),
                        "course": self._course(router, policy.policy_version),
                    }
                    for policy in policies.policies
                ],
            },
            headers=_FRESH,
        )

    def _course(self, router: str, version: str) -> list[dict[str, Any]]:
        return [
            {
                "sessions": sum(evidence.told),
                "differences": [
                    {
                        "condition": condition.text,
                        "metric": condition.metric,
                        "offset": condition.offset,
                        **interval._asdict(),
                    }
                    for condition, interval in evidence.differences()
                ],
            }
            for evidence in self._guard.course(router, version)
        ]

    async def overview(self, request: web.Request) -> web.Response:
        """What a router's sessions came to."""
        router = self._readable(request)
        span = request.query.get("range", "day")
        if span not in RANGES:
            raise Refused(400, f"there is no range {span!r}: {', '.join(RANGES)}")
        settings = self._administration.router(router).settings
        arms = [stands.arm.id for stands in self._administration.arms(router) if not stands.arm.retired]
        return _json(
            await self._keeping.ask(
                "overview", router=router, range=span, arms=tuple(arms), baseline=settings.baseline_arm
            )
        )

    async def decisions(self, request: web.Request) -> web.Response:
        """The latest decisions, each with its reason in a line."""
        router, most = self._readable(request), request.query.get("most", str(RECENT))
        if not (most.isascii() and most.isdigit() and 0 < int(most) <= RECENT):
            raise Refused(400, f"most: {most!r} is no number from 1 to {RECENT}")
        return _json(await self._keeping.ask("decisions", router=router, most=int(most)))

    def _kept(self, what: str) -> Handler:
        async def answer(request: web.Request) -> web.Response:
            return _json(await self._keeping.ask(what, router=self._readable(request)))

        return answer

    async def find(self, request: web.Request) -> web.Response:
        """What an id names: a decision, a session, or nothing."""
        router, name = self._readable(request), request.query.get("id", "")
        try:
            await self._routing.GetDecision(pb.GetDecisionRequest(router=router, decision_id=name), _NO_CONTEXT)
            return web.json_response({"id": name}, headers=_FRESH)
        except Unknown:
            pass
        try:
            await self._routing.GetSession(pb.GetSessionRequest(router=router, session_id=name), _NO_CONTEXT)
            return web.json_response({"session": name}, headers=_FRESH)
        except Unknown:
            return web.json_response({}, headers=_FRESH)

    async def decision(self, request: web.Request) -> web.Response:
        """Why this model?"""
        asked = pb.GetDecisionRequest(router=self._readable(request), decision_id=request.query.get("id", ""))
        found = await self._routing.GetDecision(asked, _NO_CONTEXT)
        return web.json_response(_plain(found), headers=_FRESH)

    async def session(self, request: web.Request) -> web.Response:
        """A session's course."""
        asked = pb.GetSessionRequest(router=self._readable(request), session_id=request.query.get("id", ""))
        found = await self._routing.GetSession(asked, _NO_CONTEXT)
        return web.json_response(_plain(found), headers=_FRESH)

    def _readable(self, request: web.Request) -> str:
        """The router that a request is about. Raises Forbidden, and Unknown where there is none of that name."""
        router = request.query.get("router", "")
        calling.get().require(Scope.READ, router)
        self._administration.router(router)
        return router

    # --- changes ------------------------------------------------------------------------------------------------

    async def act(self, request: web.Request) -> web.Response:
        """A change, by the same message and with the same rights as over gRPC."""
        kind, act = self._acts.get(request.match_info["act"], (None, None))
        if kind is None or act is None:
            raise Refused(404, "there is no such change")
        asked: Any = kind()
        try:
            json_format.ParseDict(msgspec.json.decode(await request.read()), asked)
        except (json_format.ParseError, msgspec.MsgspecError, TypeError, ValueError, RecursionError) as error:
            raise Refused(400, str(error)) from error
        calling.get().require(Scope.ADMIN, asked.router or DEFAULT_ROUTER)
        return web.json_response(_plain(await act(asked, _NO_CONTEXT)), headers=_FRESH)

    async def _put_prices(self, request: admin_pb2.PutArmRequest, context: Any) -> admin_pb2.PutArmResponse:
        """Sets the prices of an arm that is there, and nothing else of it."""
        asked = admin_pb2.ListArmsRequest(router=request.router, include_retired=True)
        arms = (await self._admin.ListArms(asked, context)).arms
        arm = next((arm for arm in arms if arm.id == request.arm.id), None)
        if arm is None:
            raise Refused(404, f"there is no arm {request.arm.id!r}")
        arm.prices.CopyFrom(request.arm.prices)
        return await self._admin.PutArm(
            admin_pb2.PutArmRequest(router=request.router, request_id=request.request_id, arm=arm), context
        )


def _plain(message: Message) -> dict[str, Any]:
    return dict(
        json_format.MessageToDict(message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True)
    )


def _json(content: bytes) -> web.Response:
    return web.Response(body=content, content_type="application/json", charset="utf-8", headers=_FRESH)
