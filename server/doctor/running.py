"""Is a running server in reach, and does it do what it is there for?"""

import time
from collections.abc import Iterator, Mapping

import grpc

from pointsman import Client
from pointsman.errors import code_of
from pointsman.v1 import admin_pb2
from server.console import state
from server.doctor import traffic
from server.doctor.finding import Finding, Severity
from server.release import RELEASE
from server.words import dollars, percent

_SKEW_SECONDS = 2.0
_BEHIND_EVENTS = 2000
_OVERSPENT = 1.05


def check(client: Client, server: str, only: str, *, how: str, timeout_seconds: float) -> Iterator[Finding]:
    """What is wrong with `server`, which `client` talks to, and with its router `only`; empty: with all of them.

    `how` says in words how it is reached.
    """
    try:
        before = time.time()
        listed = client.call(client.admin.ListRouters, admin_pb2.ListRoutersRequest(router=only))
        after = time.time()
        yield from service(server, listed, state.health(client), before=before, after=after)
        for router in listed.routers:
            yield from _router(f"{server}, router {router.id}", client, router, timeout_seconds)
    except grpc.RpcError as error:
        yield _refused(server, how, error)


def service(
    server: str, listed: admin_pb2.ListRoutersResponse, health: Mapping[str, str], *, before: float, after: float
) -> Iterator[Finding]:
    """What is wrong with a server that answered with `listed` between two times of this machine's clock."""

    def finding(code: str, severity: Severity, found: str, remedy: str) -> Finding:
        return Finding(code=code, severity=severity, where=server, found=found, remedy=remedy)

    for name, said in health.items():
        if said != "SERVING":
            yield finding(
                "not-serving",
                Severity.ERROR,
                f"{name} says {said}: calls are answered UNAVAILABLE",
                "see what the server's log says of its store, and look at the data directory with --data-dir",
            )
    if RELEASE and listed.version != RELEASE:
        yield finding(
            "release-differs",
            Severity.WARNING,
            f"the server is release {listed.version or 'of before 0.1.0'}, this command {RELEASE}",
            "install the same release here and there",
        )
    if listed.HasField("at"):
        at = listed.at.seconds + listed.at.nanos / 1e9
        # What lies between the question and the answer is no difference of clocks.
        skew = at - after if at > after else min(0.0, at - before)
        if abs(skew) > _SKEW_SECONDS:
            yield finding(
                "clock-differs",
                Severity.WARNING,
                f"its clock is {abs(skew):,.1f} seconds {'ahead of' if skew > 0 else 'behind'} this machine's",
                "have both machines' clocks set by NTP: outages, waits and days of the archive go by the server's",
            )
    if not listed.routers:
        yield finding("no-routers", Severity.ERROR, "it has no routers", "configure one, or call CreateRouter")


def _refused(server: str, how: str, error: grpc.RpcError) -> Finding:
    code = code_of(error)
    details = getattr(error, "details", None)
    said = (details() if callable(details) else None) or "no reason given"
    answers = {
        grpc.StatusCode.UNAUTHENTICATED: (
            "not-known",
            "give a token (--token or POINTSMAN_TOKEN) or a certificate (--tls-cert, --tls-key) that the server knows",
        ),
        grpc.StatusCode.PERMISSION_DENIED: ("not-allowed", "use a token with the scope `read` on all routers"),
        grpc.StatusCode.NOT_FOUND: ("no-such-router", "name one that `pointsman status` shows"),
        grpc.StatusCode.UNIMPLEMENTED: ("not-pointsman", "name Pointsman's gRPC port, not another service's"),
    }
    kind, remedy = answers.get(
        code,
        (
            "out-of-reach",
            "is it running, is that its gRPC port (not HTTP), does it speak TLS (then --tls or --tls-ca), does its "
            "certificate name this host, and does a firewall lie between?",
        ),
    )
    found = f"tried {how}: {code.name}: {said}"
    return Finding(code=kind, severity=Severity.ERROR, where=server, found=found, remedy=remedy)


def _router(where: str, client: Client, router: admin_pb2.Router, timeout_seconds: float) -> Iterator[Finding]:
    yield from _arms(where, state.arms(client, router.id))
    yield from standing(where, router)
    try:
        counted = traffic.count(state.recent(client, router, timeout_seconds), router.learned_sequence)
    except grpc.RpcError as error:
        if code_of(error) is not grpc.StatusCode.PERMISSION_DENIED:
            raise
        yield Finding(
            code="events-refused",
            severity=Severity.WARNING,
            where=where,
            found="its events may not be read: whether rewards and features come is not looked at",
            remedy="use a token with the scope `read` on this router",
        )
        return
    yield from traffic.check(where, router, counted)


def _arms(where: str, arms: tuple[admin_pb2.Arm, ...]) -> Iterator[Finding]:
    live = [arm for arm in arms if not arm.retired]
    down = [arm for arm in live if arm.HasField("down_until")]
    if len(down) == len(live):
        yield Finding(
            code="no-arm-up",
            severity=Severity.ERROR,
            where=where,
            found="all of its arms are down" if live else "it has no arms that are not retired",
            remedy="`pointsman arms ARM --up`, or add one with --put",
        )
    elif down:
        told = "; ".join(f"{arm.id} ({arm.down_why or 'no reason given'})" for arm in down)
        yield Finding(
            code="arm-down",
            severity=Severity.WARNING,
            where=where,
            found=f"{len(down)} of {len(live)} arms are down: {told}",
            remedy="`pointsman arms ARM --up` once it answers again; by itself it is back when its time is over",
        )


def standing(where: str, router: admin_pb2.Router) -> Iterator[Finding]:
    """What is wrong with how far a router is."""
    behind = router.last_sequence - router.learned_sequence
    if router.mode != admin_pb2.MODE_FROZEN and behind > _BEHIND_EVENTS:
        yield Finding(
            code="learner-behind",
            severity=Severity.WARNING,
            where=where,
            found=f"the log ends at event {router.last_sequence:,}, and it has learned from those up to "
            f"{router.learned_sequence:,}: {behind:,} behind",
            remedy="wait if many came at once, or if few are this router's rewards; else give the fitter a core",
        )
    objective = router.settings.objective
    if objective.HasField("budget_usd") and router.budget_spent_usd > _OVERSPENT * objective.budget_usd:
        yield Finding(
            code="budget-overspent",
            severity=Severity.ERROR,
            where=where,
            found=f"{dollars(router.budget_spent_usd)} of {dollars(objective.budget_usd)} are spent or expected in "
            f"this period ({percent(router.budget_spent_usd / objective.budget_usd)})",
            remedy="raise budget_usd, add a cheaper arm, or set session_cap_usd: the price of the budget alone cannot "
            "make dear sessions cheap",
        )
    for candidate in router.candidates:
        evidence = candidate.evidence
        came = evidence.canary_sessions + evidence.waiting_sessions
        quiet = candidate.stage == admin_pb2.POLICY_STAGE_CANARY and not came
        if quiet and candidate.HasField("evidence"):
            yield Finding(
                code="canary-without-sessions",
                severity=Severity.WARNING,
                where=where,
                found=f"the canary {candidate.policy}, version {candidate.policy_version}, waits: no session has begun "
                "since it did",
                remedy="see whether agents call this router at all, or `pointsman policies roll-back`",
            )
