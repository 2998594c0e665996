"""Many clients of a few sessions, as badly behaved as a network: calls are repeated, given up, sent again later, and
sent with another body. Each call is written down with its beginning, its end and its answer."""

import asyncio
import itertools
import random
import time
from collections import defaultdict
from dataclasses import dataclass, field
from typing import Any

import grpc
import grpc.aio
from google.protobuf.message import Message

from pointsman.v1 import routing_pb2 as pb
from pointsman.v1 import routing_pb2_grpc
from tests.faults.history import (
    NEVER,
    Accepted,
    Advised,
    Answer,
    Asked,
    Chosen,
    Escalate,
    Exhausted,
    History,
    Look,
    Operation,
    Refused,
    Report,
    Reward,
    Seen,
    SeenAttempt,
    Select,
)
from tests.faults.model import ARMS, MOST_FAILURES
from tests.faults.trial import require

_NOBODY_KNOWS = (grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.DEADLINE_EXCEEDED, grpc.StatusCode.CANCELLED)
_AT_ONCE = 6
"""Sessions that are worked on at a time: few, so that clients meet."""
_CALLS = 14
"""Of a session, before another takes its place."""
_SECONDS = 5.0
_PATIENCE_SECONDS = 60.0
"""No fault lasts so long."""


@dataclass
class Clients:
    """All clients of a run. They share what they learn of decisions, as agents of one session do."""

    seed: str
    history: History = field(default_factory=History)

    def __post_init__(self) -> None:
        self._rng = random.Random(self.seed)
        self._numbers = itertools.count(1)
        self._names = (f"session-{i}" for i in itertools.count(1))
        self._left = {next(self._names): _CALLS for _ in range(_AT_ONCE)}
        self._known: dict[str, list[str]] = defaultdict(list)
        self._later: set[asyncio.Task[None]] = set()

    async def work(self, address: str, ending: asyncio.Event) -> None:
        """One client, until the end; it returns when nothing of its own is under way."""
        backoff = [("grpc.initial_reconnect_backoff_ms", 20), ("grpc.max_reconnect_backoff_ms", 100)]
        async with grpc.aio.insecure_channel(
            address, options=[*backoff, ("grpc.use_local_subchannel_pool", 1)]
        ) as channel:
            routing = routing_pb2_grpc.RoutingStub(channel)
            while not ending.is_set():
                await self._act(routing)
                await asyncio.sleep(self._rng.random() * 0.02)
            while self._later:
                await asyncio.gather(*self._later)

    async def look_at_all(self, address: str) -> None:
        """Asks for every session, until it is answered."""
        async with grpc.aio.insecure_channel(address) as channel:
            routing = routing_pb2_grpc.RoutingStub(channel)
            for session in sorted({one.session for one in self.history.operations}):
                await self._until_answered(routing, session, Look(), "")

    # --- what clients do ----------------------------------------------------------------------------------------

    async def _act(self, routing: routing_pb2_grpc.RoutingStub) -> None:
        rng, session = self._rng, self._rng.choice(list(self._left))
        self._left[session] -= 1
        if not self._left[session]:
            del self._left[session]
            self._left[next(self._names)] = _CALLS
        asked = self._asked(session)
        key = f"key-{next(self._numbers)}" if rng.random() < 0.75 and not isinstance(asked, Look) else ""
        match rng.choices(("patient", "gone", "twice", "changed"), (6, 2, 2, 1))[0] if key else "once":
            case "once":
                await self._call(routing, session, asked, key, _SECONDS)
            case "gone":
                await self._call(routing, session, asked, key, rng.uniform(0.001, 0.03))
            case "twice":
                self._send_later(routing, session, asked, key)
                await asyncio.gather(*(self._until_answered(routing, session, asked, key) for _ in range(2)))
            case "changed":
                answer = await self._until_answered(routing, session, asked, key)
                if not isinstance(answer, Refused):
                    await self._call(routing, session, _changed(asked), key, _SECONDS)
            case _:
                await self._until_answered(routing, session, asked, key)

    def _asked(self, session: str) -> Asked:
        rng, known = self._rng, self._known[session]
        what = rng.choices((Select, Escalate, Report, Reward, Look), (5, 5, 2, 5, 4))[0]
        if what is Select or (not known and what is not Look):
            return Select(pinned=rng.choice(ARMS) if rng.random() < 0.2 else "")
        if what is Look:
            return Look()
        decision = known[-1] if rng.random() < 0.8 else rng.choice(known)
        if what is Escalate:
            return Escalate(decision, rng.choice((None, 0.25, 0.5)))
        if what is Report:
            return Report(decision)
        return Reward(
            decision=decision if rng.random() < 0.6 else "",
            revision=rng.randrange(12) if rng.random() < 0.4 else None,
            success=rng.choice((None, 0.0, 1.0)),
            cost=rng.choice((None, 1.0, 2.0, 4.0)),
            final=rng.random() < 0.12,
        )

    def _send_later(self, routing: routing_pb2_grpc.RoutingStub, session: str, asked: Asked, key: str) -> None:
        async def send() -> None:
            await asyncio.sleep(self._rng.random() * 0.6)
            await self._call(routing, session, asked, key, _SECONDS)

        task = asyncio.get_running_loop().create_task(send())
        self._later.add(task)
        task.add_done_callback(self._later.discard)

    async def _until_answered(
        self, routing: routing_pb2_grpc.RoutingStub, session: str, asked: Asked, key: str
    ) -> Answer:
        ends = time.monotonic() + _PATIENCE_SECONDS
        while True:
            require(time.monotonic() < ends, f"{asked} of {session} is never answered")
            answer = await self._call(routing, session, asked, key, _SECONDS, waiting=True)
            if answer is not None:
                return answer
            await asyncio.sleep(0.1)

    async def _call(
        self,
        routing: routing_pb2_grpc.RoutingStub,
        session: str,
        asked: Asked,
        key: str,
        seconds: float,
        *,
        waiting: bool = False,
    ) -> Answer | None:
        """None where nobody knows whether it was carried out. With `waiting` it is sent once there is a server."""
        begun = time.monotonic()
        answer: Answer | None = None
        raw = b""
        try:
            message = await _send(routing, session, asked, key, timeout=seconds, wait_for_ready=waiting)
            answer, raw = _answer(message), message.SerializeToString(deterministic=True)
        except grpc.aio.AioRpcError as error:
            if error.code() not in _NOBODY_KNOWS:
                answer = Refused(error.code().name)
        ended = time.monotonic() if answer is not None else NEVER
        operation = Operation(
            number=len(self.history.operations),
            session=session,
            asked=asked,
            key=key,
            begun=begun,
            ended=ended,
            answer=answer,
            raw=raw,
        )
        self.history.operations.append(operation)
        if isinstance(answer, Chosen) and answer.decision not in self._known[session]:
            self._known[session].append(answer.decision)
        return answer


def _changed(asked: Asked) -> Asked:
    """The same request with another body."""
    match asked:
        case Select():
            return asked._replace(pinned="b" if asked.pinned == "a" else "a")
        case Escalate():
            return asked._replace(cost=3.0)
        case Reward():
            return asked._replace(cost=3.0)
        case Report():
            return asked._replace(decision="another")
        case Look():
            return asked


# --- to and from messages ---------------------------------------------------------------------------------------


async def _send(routing: routing_pb2_grpc.RoutingStub, session: str, asked: Asked, key: str, **how: Any) -> Message:
    match asked:
        case Select():
            select = pb.SelectRequest(session_id=session, request_id=key, pinned_arm=asked.pinned)
            return await routing.Select(select, **how)
        case Escalate():
            escalate = pb.EscalateRequest(
                decision_id=asked.decision,
                request_id=key,
                reason=pb.ESCALATION_REASON_VERIFIED_FAILURE,
                outcome=pb.AttemptOutcome(cost_usd=asked.cost),
            )
            return await routing.Escalate(escalate, **how)
        case Report():
            signals = pb.ProgressSignals(turns=3)
            report = pb.ReportProgressRequest(decision_id=asked.decision, request_id=key, signals=signals)
            return await routing.ReportProgress(report, **how)
        case Reward():
            reward = pb.RewardRequest(
                decision_id=asked.decision,
                session_id="" if asked.decision else session,
                request_id=key,
                success=asked.success,
                cost_usd=asked.cost,
                revision=asked.revision,
                final=asked.final,
            )
            return await routing.Reward(reward, **how)
        case Look():
            return await routing.GetSession(pb.GetSessionRequest(session_id=session), **how)


def _answer(message: Message) -> Answer:
    match message:
        case pb.SelectResponse():
            return _chosen(message)
        case pb.EscalateResponse():
            return _chosen(message.next) if message.HasField("next") else Exhausted()
        case pb.ReportProgressResponse():
            return Advised()
        case pb.RewardResponse():
            return Accepted(message.accepted_revision)
        case pb.GetSessionResponse():
            attempts = tuple(
                SeenAttempt(a.decision_id, a.arm, a.outcome.cost_usd if a.outcome.HasField("cost_usd") else None)
                for a in message.attempts
            )
            success = message.success if message.HasField("success") else None
            return Seen(attempts, message.exhausted, message.final, success)
    raise AssertionError(f"{message} answers nothing")


def _chosen(message: pb.SelectResponse) -> Chosen:
    return Chosen(
        decision=message.decision_id,
        arm=message.arm,
        attempt=message.attempt,
        sticky=message.reason == pb.SELECT_REASON_STICKY,
        pinned=message.reason == pb.SELECT_REASON_PINNED,
    )


CONFIG = f"""
[router]
policy = "uniform"
max_attempts = {MOST_FAILURES}
[[arms]]
id = "a"
[[arms]]
id = "b"
[[arms]]
id = "c"
"""
"""Of the servers whose clients these are."""
