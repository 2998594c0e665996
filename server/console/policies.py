"""`pointsman policies` and `pointsman mode`: who decides, who is tried, and what the guard says."""

import argparse
import dataclasses
from collections.abc import Sequence
from pathlib import Path

import grpc

from bandit import agreement, record
from bandit.agreement import Agreement
from bandit.errors import InvalidInput
from bandit.intervals import Interval
from pointsman import Client
from pointsman.errors import code_of
from pointsman.v1 import admin_pb2 as pb
from pointsman.v1 import events_pb2, events_pb2_grpc
from server.console import arguments
from server.console.command import Subparsers, add, as_json
from server.console.output import Output
from server.words import dollars, percent, plain

_ACTIONS = ("list", "create", "shadow", "canary", "promote", "roll-back")
_FLAGS = {
    "file": ("--file", ("create",)),
    "share": ("--share", ("canary",)),
    "gate": ("--gate", ("canary",)),
    "hold": ("--hold", ("canary",)),
    "why": ("--why", ("roll-back",)),
}
"""Which action each flag goes with."""
_WINDOW = 8000
"""How many of the last events a shadow is compared over."""
_LONGEST_FILE = 1 << 20

_PREFIX = "POLICY_STAGE_"
_MODES = {name.removeprefix("MODE_").lower(): value for name, value in pb.Mode.items() if value != pb.MODE_UNSPECIFIED}
_SAID = {
    pb.MODE_APPRENTICE: "the baseline decides, and the policy learns from it",
    pb.MODE_LIVE: "the policy decides and learns",
    pb.MODE_FROZEN: "the policy decides and does not learn",
}


def add_policies(subparsers: Subparsers) -> None:
    """Adds `policies`."""
    parser = add(
        subparsers,
        "policies",
        _policies,
        "The policies of a router, what each is doing, and how a canary or a shadow does against the live one. `create "
        "NAME` adds one; `shadow`, `canary`, `promote` and `roll-back VERSION` change what it does; roll-back without "
        "a version takes out the canary, else the live policy.",
    )
    parser.add_argument("action", metavar="ACTION", nargs="?", choices=_ACTIONS, default="list")
    parser.add_argument("policy", metavar="VERSION", nargs="?", type=arguments.word)
    parser.add_argument("--file", metavar="FILE", type=Path, help="with create: a policy file, TOML")
    parser.add_argument("--share", metavar="0…1", type=arguments.share, help="with canary: of new sessions (0.1)")
    parser.add_argument(
        "--gate", metavar="EXPR", type=arguments.word, help="with canary: what it must hold against the live policy"
    )
    parser.add_argument(
        "--hold", action="store_true", default=None, help="with canary: the guard rolls it back, and never promotes it"
    )
    parser.add_argument("--why", metavar="WORDS", type=arguments.encodable, help="with roll-back: for people")


def add_mode(subparsers: Subparsers) -> None:
    """Adds `mode`."""
    parser = add(subparsers, "mode", _mode, "Who decides, and whether it learns; with MODE, sets it.")
    parser.add_argument("mode", metavar="MODE", nargs="?", choices=tuple(_MODES), help=", ".join(_MODES))


def _mode(asked: argparse.Namespace, client: Client, output: Output) -> None:
    router = asked.router or ""
    if asked.mode is None:
        found = client.call(client.admin.GetRouter, pb.GetRouterRequest(router=router)).router
    else:
        found = client.call(client.admin.SetMode, pb.SetModeRequest(router=router, mode=_MODES[asked.mode])).router
    output.json(as_json(found))
    name = next((name for name, value in _MODES.items() if value == found.mode), "unknown")
    output.line(f"{name}: {_SAID.get(found.mode, '')}")


def _policies(asked: argparse.Namespace, client: Client, output: Output) -> None:
    _check(asked)
    router, version = asked.router or "", asked.policy or ""
    admin = client.admin
    match asked.action:
        case "create":
            definition = _read(asked.file) if asked.file is not None else ""
            create = pb.CreatePolicyRequest(router=router, policy=version, definition=definition)
            changed = client.call(admin.CreatePolicy, create).policy
        case "shadow":
            shadow = pb.StartShadowRequest(router=router, policy_version=version)
            changed = client.call(admin.StartShadow, shadow).policy
        case "canary":
            canary = pb.StartCanaryRequest(
                router=router,
                policy_version=version,
                share=0.1 if asked.share is None else asked.share,
                gate=asked.gate or "",
                hold=bool(asked.hold),
            )
            changed = client.call(admin.StartCanary, canary).policy
        case "promote":
            promote = pb.PromotePolicyRequest(router=router, policy_version=version)
            changed = client.call(admin.PromotePolicy, promote).policy
        case "roll-back":
            back = pb.RollBackPolicyRequest(router=router, policy_version=version, why=asked.why or "")
            changed = client.call(admin.RollBackPolicy, back).policy
        case _:
            _list(router, client, output, asked.timeout)
            return
    output.json(as_json(changed))
    _table([changed], output)


def _check(asked: argparse.Namespace) -> None:
    """Raises InvalidInput where flags and words do not belong together."""
    for name, (flag, actions) in _FLAGS.items():
        if getattr(asked, name) is not None and asked.action not in actions:
            raise InvalidInput(flag, f"goes with {' or '.join(actions)}")
    if asked.action == "list" and asked.policy is not None:
        raise InvalidInput("VERSION", "list takes none")
    if asked.action in ("shadow", "canary", "promote") and asked.policy is None:
        raise InvalidInput("VERSION", "which policy? `pointsman policies` lists them")
    if asked.action == "create" and asked.policy is None and asked.file is None:
        raise InvalidInput("NAME", "which policy? Name one, `thompson` for instance, or give --file")


def _read(file: Path) -> str:
    try:
        with file.open(encoding="utf-8") as opened:
            return opened.read(_LONGEST_FILE)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else "is not UTF-8"
        raise InvalidInput("--file", f"{plain(str(file))}: {why}") from error


def _list(router: str, client: Client, output: Output, timeout_seconds: float) -> None:
    found = client.call(client.admin.ListPolicies, pb.ListPoliciesRequest(router=router)).policies
    shadows: Sequence[Agreement] = ()
    if any(policy.stage == pb.POLICY_STAGE_SHADOW for policy in found):
        shadows = _agreements(router, client, timeout_seconds)
    output.json(
        {
            "policies": [as_json(policy) for policy in found],
            "shadows": [dataclasses.asdict(shadow) for shadow in shadows],
        }
    )
    _table(found, output)
    for policy in found:
        if policy.stage == pb.POLICY_STAGE_CANARY:
            _canary(policy, output)
        elif policy.stage == pb.POLICY_STAGE_SHADOW:
            mine = next((shadow for shadow in shadows if shadow.policy_version == policy.policy_version), None)
            _shadow(policy, mine, output)


def _agreements(router: str, client: Client, timeout_seconds: float) -> list[Agreement]:
    """How the shadows compare over recent events; none where the server does not give its events out."""
    told = client.call(client.admin.GetRouter, pb.GetRouterRequest(router=router)).router
    first = max(1, told.last_sequence - _WINDOW + 1)
    request = events_pb2.ExportEventsRequest(router=told.id, from_sequence=first)
    try:
        stub = events_pb2_grpc.EventsStub(client.channel)
        pieces = stub.ExportEvents(request, timeout=timeout_seconds, metadata=client.metadata)
        return agreement.compare(
            (event.session_id, record.decode(event.kind, event.body, event.private).event)
            for piece in pieces
            for event in piece.events
        )
    except grpc.RpcError as error:
        if code_of(error) in (grpc.StatusCode.UNIMPLEMENTED, grpc.StatusCode.PERMISSION_DENIED):
            return []
        raise


def _table(found: Sequence[pb.Policy], output: Output) -> None:
    rows = []
    for policy in found:
        stage = pb.PolicyStage.Name(policy.stage).removeprefix(_PREFIX).lower().replace("_", " ")
        share = percent(policy.canary_share) if policy.HasField("canary_share") else ""
        rows.append([plain(policy.policy_version), plain(policy.policy), stage, plain(policy.verdict), share])
    live = next((i for i, policy in enumerate(found) if policy.stage == pb.POLICY_STAGE_LIVE), None)
    output.table(["version", "policy", "stage", "why", "share"], rows, words=4, chosen=live)


def _canary(policy: pb.Policy, output: Output) -> None:
    evidence = policy.evidence
    output.line()
    output.line(f"canary {plain(policy.policy_version)}", style="bold")
    promoting = "left to an operator" if policy.hold else "by the guard, when the gate is shown to hold"
    output.facts(
        [
            ("gate", plain(policy.gate)),
            ("promoted", promoting),
            ("sessions", f"{evidence.canary_sessions:,} of its own, {evidence.live_sessions:,} of the live policy"),
            (
                "without outcome",
                f"{evidence.canary_missing:,} of its own, {evidence.live_missing:,} of the live policy",
            ),
            ("waiting", f"{evidence.waiting_sessions:,} have begun and do not count yet"),
            *(
                (
                    f"{plain(each.metric)}",
                    f"{_gap(each.metric, Interval(each.estimate, each.low, each.high))} at any time",
                )
                for each in evidence.differences
            ),
            ("verdict", plain(policy.verdict)),
        ]
    )


def _shadow(policy: pb.Policy, found: Agreement | None, output: Output) -> None:
    output.line()
    output.line(f"shadow {plain(policy.policy_version)}", style="bold")
    if found is None or found.agreement is None:
        output.line("no recent decision that it was asked beside" if found is None else "it has had no answer yet")
        return
    output.facts(
        [
            ("asked", f"beside {found.decisions:,} recent decisions; no answer to {found.errors:,} of them"),
            ("agreement", percent(found.agreement)),
            *(
                (f"{name} with its first arms", f"{_gap(name, interval)} against as it was")
                for name, interval in (("success", found.success), ("cost", found.cost_usd))
                if interval is not None
            ),
            ("seen by", f"{found.sessions:,} sessions that have ended, which tell as much as {found.effective:,.0f}"),
        ]
    )


def _gap(metric: str, gap: Interval) -> str:
    if metric == "success":
        low, high = 100 * gap.low, 100 * gap.high
        return f"{100 * gap.estimate:+.1f} points, 95 %: {low:+.1f} to {high:+.1f}"
    return f"{dollars(gap.estimate)} a session, 95 %: {dollars(gap.low)} to {dollars(gap.high)}"
