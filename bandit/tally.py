"""What sessions come to, as sums: a router's figures over any stretch of time, kept up event by event.

A session's share of the figures is a function of the session as it stands. So when something happens to it, its old
share is taken out and the new one put in, and a late, corrected or missing reward needs no thought of its own. Sums of
disjoint sessions add up to the sums of all of them.
"""

import itertools
from collections.abc import Iterable, Sequence
from typing import NamedTuple, TypeAlias

import msgspec
import numpy as np
import numpy.typing as npt

from bandit import savings
from bandit.session import Attempt, Session
from bandit.types import ArmScore, Decision, SelectReason

Floats = npt.NDArray[np.float64]

RESOLVED, UNRESOLVED, UNTOLD, OPEN = "resolved", "unresolved", "untold", "open"
"""How a session ends, or that it has not: after the last of its attempts that are told apart."""
_LONGEST = 4
"""Attempts of a session that are told apart in its moves."""
BINS = 20
"""Of foretold success, of equal width."""

Move: TypeAlias = tuple[int, str, str]
"""From attempt (1, 2, …) by an arm to what follows: another arm, or one of the four ends."""

WHOLE = (
    "sessions",
    "open",
    "escalated",
    "exhausted",
    "closed",
    "told",
    "success",
    "success_squared",
    "billed",
    "cost_usd",
    "cost_squared",
    "attempts",
    "budget_price",
    "widths",
    "width",
)
"""Of sessions: how many, in what state; of how many the success is told, its sum and sum of squares, likewise dollars;
attempts; over these the sum of the price of the budget; how many foretold an interval, and the sum of their widths."""

OF_ARM = (
    "begun",
    "ended",
    "attempts",
    "seconds_told",
    "seconds",
    "success_attempts",
    "success_foretold",
    "success_real",
    "success_foretold_squared",
    "success_real_squared",
    "success_product",
    "usd_attempts",
    "usd_foretold",
    "usd_real",
    "usd_foretold_squared",
    "usd_real_squared",
    "usd_product",
)
"""Of an arm: sessions begun and ended on it, its attempts, seconds; and over the attempts whose success, and whose
dollars, were foretold and are known, the sums of `savings.Errors`."""

_WHOLE = {name: i for i, name in enumerate(WHOLE)}
_OF_ARM = {name: i for i, name in enumerate(OF_ARM)}
_NO_ERRORS = (0.0,) * len(savings.Errors._fields)
_BIN_SUMS = 4
"""Attempts, sum of what was foretold, of what came, and of its square."""
_HEAD = len(WHOLE) + BINS * _BIN_SUMS
_ARM = len(OF_ARM) + 2 * savings.PRODUCTS


class Share(NamedTuple):
    """What a session adds to the figures: sums, shape (_HEAD + n_arms * _ARM,), and where it went."""

    sums: Floats
    moves: tuple[Move, ...]


class Sums:
    """Figures of some sessions."""

    def __init__(self) -> None:
        self._sums = np.zeros(_HEAD)
        self.moves: dict[Move, int] = {}

    def put(self, share: Share, times: int = 1) -> None:
        """Puts a session's share in, or takes it out (-1 times)."""
        self._add(share.sums, times)
        for move in share.moves:
            self._move(move, times)

    def add(self, other: "Sums") -> None:
        """With other sessions' figures."""
        self._add(other._sums, 1)
        for move, n in other.moves.items():
            self._move(move, n)

    def whole(self, name: str) -> float:
        """One of WHOLE."""
        return float(self._sums[_WHOLE[name]])

    def of_arms(self, name: str) -> Floats:
        """One of OF_ARM, shape (n_arms,); arms that came later may be missing."""
        return self._arms[:, _OF_ARM[name]]

    @property
    def bins(self) -> Floats:
        """Shape (BINS, 4): attempts, foretold success, success, its square."""
        return self._sums[len(WHOLE) : _HEAD].reshape(BINS, _BIN_SUMS)

    def errors(self, arm: int, *, dollars: bool) -> savings.Errors:
        """How an arm's attempts turned out against what was foretold of them."""
        found = self._errors(dollars)
        return savings.Errors(*(found[arm].tolist() if arm < len(found) else _NO_ERRORS))

    def all_errors(self, *, dollars: bool) -> savings.Errors:
        """Likewise of all arms' attempts."""
        return savings.Errors(*self._errors(dollars).sum(axis=0).tolist())

    def _errors(self, dollars: bool) -> Floats:
        start = _OF_ARM["usd_attempts" if dollars else "success_attempts"]
        return self._arms[:, start : start + len(_NO_ERRORS)]

    def alone(self, arm: int, *, dollars: bool) -> savings.Alone | None:
        """The arm by itself on these sessions; None where it could have had none of them."""
        if arm >= len(self._arms):
            return None
        start = len(OF_ARM) + (savings.PRODUCTS if dollars else 0)
        products = self._arms[arm, start : start + savings.PRODUCTS]
        return savings.alone(products, self.errors(arm, dollars=dollars), dollars=dollars)

    @property
    def _arms(self) -> Floats:
        return self._sums[_HEAD:].reshape(-1, _ARM)

    def _add(self, sums: Floats, times: int) -> None:
        missing = len(sums) - len(self._sums)
        if missing > 0:
            self._sums = np.concatenate((self._sums, np.zeros(missing)))
        self._sums[: len(sums)] += sums if times == 1 else times * sums

    def _move(self, move: Move, n: int) -> None:
        n += self.moves.pop(move, 0)
        if n:
            self.moves[move] = n

    def packed(self) -> "Packed":
        """As plain values."""
        return Packed(self._sums.tobytes(), [(*move, n) for move, n in self.moves.items()])

    @classmethod
    def unpacked(cls, packed: "Packed") -> "Sums":
        """The inverse of `packed`."""
        sums = cls()
        sums._sums = np.frombuffer(packed.sums).copy()
        sums.moves = {(attempt, arm, to): n for attempt, arm, to, n in packed.moves}
        return sums


class Packed(msgspec.Struct, frozen=True, array_like=True):
    """Sums as they are kept in a file."""

    sums: bytes
    moves: list[tuple[int, str, str, int]]


class Shares:
    """Shares of sessions, over arms in the order in which they turn up."""

    def __init__(self, arms: Iterable[str] = ()) -> None:
        self.arms = list(arms)
        self._index = {arm: i for i, arm in enumerate(self.arms)}

    def of(self, session: Session) -> Share:
        """What a session with at least one attempt adds. How its attempts went counts once it has ended."""
        for score in session.attempts[0].decision.scores + session.attempts[-1].decision.scores:
            if score.arm not in self._index:
                self._index[score.arm] = len(self.arms)
                self.arms.append(score.arm)
        sums = np.zeros(_HEAD + len(self.arms) * _ARM)
        arms = sums[_HEAD:].reshape(-1, _ARM)
        first, attempts = session.attempts[0].decision, len(session.attempts)
        ended = session.final or session.exhausted
        arms[self._index[first.arm], _OF_ARM["begun"]] = 1.0
        for attempt in session.attempts:
            arms[self._index[attempt.decision.arm], _OF_ARM["attempts"]] += 1.0
        sums[_WHOLE["sessions"]] = 1.0
        sums[_WHOLE["attempts"]] = attempts
        sums[_WHOLE["open"]] = not ended
        sums[_WHOLE["escalated"]] = attempts > 1
        sums[_WHOLE["budget_price"]] = sum(a.decision.situation.budget_price for a in session.attempts)
        success = None
        if ended:
            arms[self._index[session.attempts[-1].decision.arm], _OF_ARM["ended"]] = 1.0
            success = self._outcomes(session, sums, arms)
        return Share(sums, _moves(session, success, ended))

    def _outcomes(self, session: Session, sums: Floats, arms: Floats) -> float | None:
        """Adds how it went; its success."""
        sums[_WHOLE["exhausted"]] = session.exhausted
        sums[_WHOLE["closed"]] = session.closed
        attempts = range(len(session.attempts))
        successes = [attempt_success(session, i) for i in attempts]
        bills = [session.dollars(i) for i in attempts]
        success, cost_usd = successes[-1], _total(bills)
        if success is not None:
            _put(sums, _WHOLE["told"], (1.0, success, success * success))
        if cost_usd is not None:
            _put(sums, _WHOLE["billed"], (1.0, cost_usd, cost_usd * cost_usd))
        for i in attempts:
            self._compare(session, i, successes[i], bills[i], sums, arms)
        if session.attempts[0].decision.reason is not SelectReason.PINNED:
            self._against(session.attempts[0].decision, (successes[0], bills[0]), (success, cost_usd), arms)
        return success

    def _compare(
        self, session: Session, i: int, success: float | None, cost_usd: float | None, sums: Floats, arms: Floats
    ) -> None:
        """Adds how an attempt went against what was foretold of it."""
        score, outcome = foretold_of(session.attempts[i]), session.outcome(i)
        arm = arms[self._index[score.arm]]
        if score.success_low is not None and score.success_high is not None:
            _put(sums, _WHOLE["widths"], (1.0, score.success_high - score.success_low))
        if outcome.served_arm is not None and outcome.served_arm != score.arm:
            # How another arm went says nothing of what was foretold of this one.
            return
        if outcome.latency_seconds is not None:
            _put(arm, _OF_ARM["seconds_told"], (1.0, outcome.latency_seconds))
        if success is not None and score.success_mean is not None:
            _put(arm, _OF_ARM["success_attempts"], _errors(score.success_mean, success))
            place = len(WHOLE) + _BIN_SUMS * min(int(score.success_mean * BINS), BINS - 1)
            _put(sums, place, (1.0, score.success_mean, success, success * success))
        if cost_usd is not None and score.cost_usd is not None:
            _put(arm, _OF_ARM["usd_attempts"], _errors(score.cost_usd, cost_usd))

    def _against(
        self,
        first: Decision,
        own: tuple[float | None, float | None],
        whole: tuple[float | None, float | None],
        arms: Floats,
    ) -> None:
        """Adds what the session says of every arm that could have begun it; success first, then dollars."""
        scores = [score for score in first.scores if score.propensity > 0.0]
        rows = [self._index[score.arm] for score in scores]
        weight = np.array([score.arm == first.arm for score in scores]) / first.propensity
        beliefs = [score.success_mean or 0.0 for score in scores], [score.cost_usd or 0.0 for score in scores]
        for figure, foretold in enumerate(beliefs):
            mine, became = own[figure], whole[figure]
            if became is not None:
                weights = weight if mine is not None else np.zeros(len(rows))
                start = len(OF_ARM) + figure * savings.PRODUCTS
                arms[rows, start : start + savings.PRODUCTS] += savings.products(
                    np.array(foretold), weights, np.full(len(rows), mine or 0.0), became
                )


def foretold_of(attempt: Attempt) -> ArmScore:
    """What its decision believed of the arm that it took."""
    decision = attempt.decision
    return next(score for score in decision.scores if score.arm == decision.arm)


def attempt_success(session: Session, i: int) -> float | None:
    """Success of attempt `i`: what was told, else 0 where an alarm says that it failed; None where it is not known."""
    left = session.attempts[i].left
    if left is not None and not left.is_alarm:
        return None
    told = session.outcome(i).success
    return 0.0 if told is None and left is not None else told


def _put(sums: Floats, start: int, values: tuple[float, ...]) -> None:
    # One by one: for so few numbers quicker than an array made of them.
    for i, value in enumerate(values, start):
        sums[i] += value


def _errors(foretold: float, real: float) -> savings.Errors:
    return savings.Errors(1.0, foretold, real, foretold * foretold, real * real, foretold * real)


def _total(bills: Sequence[float | None]) -> float | None:
    known = [bill for bill in bills if bill is not None]
    return sum(known) if len(known) == len(bills) else None


def _moves(session: Session, success: float | None, ended: bool) -> tuple[Move, ...]:
    arms = [attempt.decision.arm for attempt in session.attempts[:_LONGEST]]
    end = OPEN if not ended else UNTOLD if success is None else RESOLVED if success >= 0.5 else UNRESOLVED
    return tuple((i, arm, to) for i, (arm, to) in enumerate(itertools.pairwise([*arms, end]), 1))
