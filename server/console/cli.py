"""`pointsman status | select | reward | escalate | explain`: flags to requests, answers to tables and JSON."""

import argparse
import dataclasses
from collections import Counter
from collections.abc import Iterable
from typing import TypeVar

import grpc

from bandit.errors import InvalidInput
from pointsman import Client, field_violations, requests
from pointsman.errors import code_of
from pointsman.v1 import routing_pb2 as pb
from server.console import arguments, state, story, tables
from server.console.command import Refused, Subparsers, add, as_json
from server.console.output import Output

_Value = TypeVar("_Value")


def add_status(subparsers: Subparsers) -> None:
    """Adds `status`."""
    add(
        subparsers,
        "status",
        _status,
        "Every router: who decides, whether it learns and how far it lags, arms, budget; and whether services are up. "
        "Without --router, all routers.",
    )


def add_select(subparsers: Subparsers) -> None:
    """Adds `select`."""
    parser = add(
        subparsers,
        "select",
        _select,
        "Which arm takes this session, and why. The first line of the answer is the arm.",
    )
    parser.add_argument("--session", metavar="ID", type=arguments.word, help="default: a new one")
    _add_features(parser, "what is known of the session")
    parser.add_argument("--allow", metavar="A,B,…", type=arguments.words, action="extend", help="only these arms")
    parser.add_argument("--deny", metavar="A,B,…", type=arguments.words, action="extend", help="not these arms")
    _add_needs(parser)
    parser.add_argument(
        "--max-cost", metavar="USD", type=arguments.dollars, help="expected dollars that an attempt may cost"
    )
    parser.add_argument("--pin", metavar="ARM", type=arguments.word, help="take this arm")
    _add_request_id(parser)


def add_escalate(subparsers: Subparsers) -> None:
    """Adds `escalate`."""
    parser = add(subparsers, "escalate", _escalate, "Leaves the running attempt of a session: which arm next?")
    _add_addressee(parser)
    parser.add_argument(
        "--reason",
        metavar="REASON",
        type=arguments.reason,
        required=True,
        help=f"why it is left: {', '.join(arguments.REASONS)}",
    )
    _add_outcome(parser, "the attempt")
    _add_features(parser, "what has changed since Select")
    _add_needs(parser)
    parser.add_argument("--endpoint", metavar="NAME", type=arguments.word, help="which endpoint of the arm failed")
    _add_request_id(parser)


def add_reward(subparsers: Subparsers) -> None:
    """Adds `reward`."""
    parser = add(
        subparsers,
        "reward",
        _reward,
        "Tells how an attempt (by --decision) or a whole session (by --session) went: at once, in parts, or corrected.",
    )
    _add_addressee(parser)
    parser.add_argument(
        "--success", metavar="0…1", type=arguments.share, help="degree to which the work resolved the session"
    )
    _add_outcome(parser, "the attempt or session")
    parser.add_argument("--served-arm", metavar="ARM", type=arguments.word, help="the arm that really served")
    parser.add_argument(
        "--metric",
        metavar="NAME=NUMBER",
        type=arguments.metric,
        action="append",
        help="anything else that was measured",
    )
    parser.add_argument("--revision", metavar="N", type=arguments.count, help="order among corrections")
    parser.add_argument("--final", action="store_true", help="close the session")
    _add_request_id(parser)


def add_explain(subparsers: Subparsers) -> None:
    """Adds `explain`."""
    parser = add(
        subparsers, "explain", _explain, "Why this model? A decision, or each decision of a session, in words."
    )
    parser.add_argument("id", metavar="ID", type=arguments.word, help="of a decision or of a session")


# --- commands -------------------------------------------------------------------------------------------------------


def _status(asked: argparse.Namespace, client: Client, output: Output) -> None:
    found = state.read(client, only=asked.router or "", timeout_seconds=asked.timeout)
    routers = [
        {
            **as_json(router.message),
            "arms": [as_json(arm) for arm in router.arms],
            "evidence": router.evidence and dataclasses.asdict(router.evidence),
        }
        for router in found.routers
    ]
    output.json({"server": asked.server, "services": found.services, "routers": routers})
    tables.status(asked.server, found, output)


def _select(asked: argparse.Namespace, client: Client, output: Output) -> None:
    request = requests.select_request(
        _by_name("--feature", asked.feature),
        router=asked.router or "",
        session_id=asked.session or "",
        request_id=asked.request_id or "",
        allow=asked.allow or (),
        deny=asked.deny or (),
        required_capabilities=asked.require or (),
        max_cost_usd=asked.max_cost,
        pinned_arm=asked.pin or "",
        context_tokens=asked.context_tokens,
    )
    response = client.call(client.routing.Select, request)
    output.json(as_json(response))
    tables.choice(response, output)


def _escalate(asked: argparse.Namespace, client: Client, output: Output) -> None:
    request = requests.escalate_request(
        router=asked.router or "",
        session_id=asked.session or "",
        decision_id=asked.decision or "",
        request_id=asked.request_id or "",
        reason=asked.reason,
        cost_usd=asked.cost,
        usage=_usage(asked),
        latency_seconds=asked.latency,
        features=_by_name("--feature", asked.feature),
        required_capabilities=asked.require or (),
        context_tokens=asked.context_tokens,
        endpoint=asked.endpoint or "",
    )
    response = client.call(client.routing.Escalate, request)
    output.json(as_json(response))
    tables.escalated(response, output)


def _reward(asked: argparse.Namespace, client: Client, output: Output) -> None:
    request = requests.reward_request(
        router=asked.router or "",
        decision_id=asked.decision or "",
        session_id=asked.session or "",
        request_id=asked.request_id or "",
        success=asked.success,
        cost_usd=asked.cost,
        usage=_usage(asked),
        latency_seconds=asked.latency,
        served_arm=asked.served_arm or "",
        metrics=_by_name("--metric", asked.metric),
        revision=asked.revision,
        final=asked.final,
    )
    response = client.call(client.routing.Reward, request)
    output.json(as_json(response))
    output.line(f"taken as revision {response.accepted_revision}{', and the session is closed' if asked.final else ''}")


def _explain(asked: argparse.Namespace, client: Client, output: Output) -> None:
    def decision(decision_id: str) -> pb.GetDecisionResponse:
        request = pb.GetDecisionRequest(router=asked.router or "", decision_id=decision_id)
        return client.call(client.routing.GetDecision, request)

    try:
        found = decision(asked.id)
    except grpc.RpcError as error:
        unknown = [field for field, _ in field_violations(error)] == ["decision_id"]
        if code_of(error) is not grpc.StatusCode.NOT_FOUND or not unknown:
            raise
        session = _session(asked, client)
        decisions = [decision(attempt.decision_id) for attempt in session.attempts]
        output.json({**as_json(session), "decisions": [as_json(decision) for decision in decisions]})
        story.session(session, decisions, output)
        return
    output.json(as_json(found))
    story.decision(found, output)


def _session(asked: argparse.Namespace, client: Client) -> pb.GetSessionResponse:
    try:
        request = pb.GetSessionRequest(router=asked.router or "", session_id=asked.id)
        return client.call(client.routing.GetSession, request)
    except grpc.RpcError as error:
        if code_of(error) is grpc.StatusCode.NOT_FOUND:
            raise Refused(f"NOT_FOUND: no decision or session {asked.id!r} (ID)") from error
        raise


# --- flags ----------------------------------------------------------------------------------------------------------


def _add_features(parser: argparse.ArgumentParser, what: str) -> None:
    parser.add_argument(
        "--feature",
        metavar="NAME=VALUE",
        type=arguments.feature,
        action="append",
        help=f"{what}: numbers are numbers, true and false flags, all else categories; "
        "NAME:text=…, :category=…, :number=…, :flag=…, :embedding=1,2,3 say which",
    )


def _add_needs(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--require", metavar="C,D,…", type=arguments.words, action="extend", help="capabilities that are needed"
    )
    parser.add_argument(
        "--context-tokens", metavar="N", type=arguments.count, help="tokens of the prompt that the arm has to take"
    )


def _add_addressee(parser: argparse.ArgumentParser) -> None:
    which = parser.add_mutually_exclusive_group(required=True)
    which.add_argument("--session", metavar="ID", type=arguments.word)
    which.add_argument("--decision", metavar="ID", type=arguments.word)


def _add_outcome(parser: argparse.ArgumentParser, whose: str) -> None:
    parser.add_argument("--cost", metavar="USD", type=arguments.dollars, help=f"dollars of {whose} in all")
    for kind in ("input", "output", "cached"):
        parser.add_argument(f"--{kind}-tokens", metavar="N", type=arguments.count, help=f"of {whose} in all")
    parser.add_argument("--latency", metavar="SECONDS", type=arguments.seconds, help=f"of {whose} in all")


def _add_request_id(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--request-id", metavar="ID", type=arguments.word, help="makes it safe to repeat (default: random)"
    )


def _by_name(flag: str, given: Iterable[tuple[str, _Value]] | None) -> dict[str, _Value]:
    pairs = list(given or ())
    for name, times in Counter(name for name, _ in pairs).items():
        if times > 1:
            raise InvalidInput(flag, f"{name!r} is given {times} times")
    return dict(pairs)


def _usage(asked: argparse.Namespace) -> pb.Usage | None:
    counts = (asked.input_tokens, asked.output_tokens, asked.cached_tokens)
    if all(count is None for count in counts):
        return None
    return pb.Usage(input_tokens=counts[0], output_tokens=counts[1], cached_tokens=counts[2])
