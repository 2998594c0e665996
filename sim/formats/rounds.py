"""Somebody else's logged decisions become events: each a session of one attempt, with what came of it.

A round that could not have come about is refused, with its place in the file. Nothing is there afterwards unless all
of it was sound.
"""

import contextlib
import math
import re
import shutil
import tempfile
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import TypeAlias

from bandit.errors import InvalidInput
from bandit.events import ArmPut, Decided, Event, Rewarded, RouterPut
from bandit.features import without_texts
from bandit.types import (
    Arm,
    ArmScore,
    Decision,
    Features,
    Offer,
    Outcome,
    RouterSettings,
    SelectReason,
    Situation,
    Text,
)
from sim import duck
from sim.event_log import EventLog

POLICY = "imported"
"""What stands for the policy that took these decisions, and for its version."""

_TOLERANCE = 1e-4
"""Of sums and of propensities told twice: other programs compute in single precision."""
_MOST_ARMS = 1000
_MOST_FEATURES = 256
_MOST_CHARACTERS = 256
_MOST_ID_CHARACTERS, _MOST_ROUTER_CHARACTERS = 191, 64
"""Together and with a colon an id of the service."""
_MOST_NUMBERS = 4096
_MOST_USD = 1e12
_MOST_US = 253_402_300_799_999_999
_CONTROL = re.compile(r"[\x00-\x1f\x7f-\x9f]")
_MEMORY_MB = 256


@dataclass(frozen=True, kw_only=True)
class Round:
    """One decision of a log, and what came of it."""

    id: str
    """Different from every other round's."""
    at_us: int
    """UTC microseconds since 1970."""
    arms: tuple[str, ...]
    """Those that could have been taken, …"""
    propensities: tuple[float, ...]
    """… the probability of each, sum 1, …"""
    chosen: int
    """… and the position of the one that was."""
    features: Features
    success: float | None
    """In [0, 1]; None: unknown."""
    cost_usd: float | None = None

    def check(self) -> None:
        """Raises InvalidInput naming what cannot be."""
        _check_name("id", self.id, _MOST_ID_CHARACTERS)
        _require(0 <= self.at_us <= _MOST_US, "time", "lies outside the years 1970 to 9999")
        for arm in self.arms:
            _check_name("arm", arm)
        _require(len(set(self.arms)) == len(self.arms), "arm", "one is there twice")
        _require(len(self.arms) == len(self.propensities), "propensities", f"must be {len(self.arms)}, one an arm")
        for p in self.propensities:
            _require(0.0 <= p <= 1.0, "propensities", f"{p} lies outside 0 to 1")
        total = math.fsum(self.propensities)
        _require(abs(total - 1.0) <= _TOLERANCE, "propensities", f"sum to {total:.6g}, not to 1")
        _require(self.propensities[self.chosen] > 0.0, "propensity", "of what was taken must be above 0")
        _require(self.success is None or 0.0 <= self.success <= 1.0, "success", f"{self.success} lies outside 0 to 1")
        _require(
            self.cost_usd is None or 0.0 <= self.cost_usd <= _MOST_USD,
            "cost_usd",
            f"{self.cost_usd} lies outside 0 to {_MOST_USD:g}",
        )
        self._check_features()

    def _check_features(self) -> None:
        _require(len(self.features) <= _MOST_FEATURES, "features", f"there are more than {_MOST_FEATURES}")
        for name, value in self.features.items():
            _check_name("features", name)
            field = f"features.{name}"
            match value:
                case str():
                    _require(len(value) <= _MOST_CHARACTERS, field, f"is longer than {_MOST_CHARACTERS} characters")
                case tuple():
                    _require(len(value) <= _MOST_NUMBERS, field, f"has more than {_MOST_NUMBERS} numbers")
                    _require(all(map(math.isfinite, value)), field, "must be finite")
                case float():
                    _require(math.isfinite(value), field, "must be finite")


Rounds: TypeAlias = Callable[[], Iterator[tuple[str, Round]]]
"""The rounds of a file from its beginning, each with its place in words, ``log.dsjson line 7``."""


@dataclass(frozen=True, kw_only=True)
class Range:
    """The rewards that stand for success 0 and 1."""

    low: float = 0.0
    high: float = 1.0

    def success(self, field: str, reward: float) -> float:
        """Raises InvalidInput where a reward lies outside."""
        share = (reward - self.low) / (self.high - self.low)
        if not -_TOLERANCE <= share <= 1.0 + _TOLERANCE:
            raise InvalidInput(
                field,
                f"a reward of {reward:g} lies outside {self.low:g} to {self.high:g}: say what is with --reward-range",
            )
        return min(1.0, max(0.0, share))


def told_twice(field: str, one: float, other: float) -> None:
    """Raises InvalidInput where a propensity that is told twice differs."""
    _require(abs(one - other) <= _TOLERANCE * max(one, other), field, f"{one:g} here and {other:g} there")


def write(rounds: Rounds, target: Path, router: str) -> tuple[int, int]:
    """Writes the events of all rounds, those of a router of that name, into the folder `target`, which must be empty
    or not there; how many decisions and arms there are.

    Raises InvalidInput, which names the place in the file, and OSError; then nothing has been written.
    """
    _check_name("--router", router, _MOST_ROUTER_CHARACTERS)
    if target.exists() and (not target.is_dir() or any(target.iterdir())):
        raise InvalidInput("--events", f"{target} is not empty")
    target.parent.mkdir(parents=True, exist_ok=True)
    making = target.with_name(f".{target.name}.making")
    shutil.rmtree(making, ignore_errors=True)
    try:
        told = _write(rounds, making, router)
        _check_unique(rounds, making)
        making.rename(target)
    except BaseException:
        shutil.rmtree(making, ignore_errors=True)
        raise
    return told


def _write(rounds: Rounds, target: Path, router: str) -> tuple[int, int]:
    settings = RouterSettings(id=router, max_attempts=1)
    arms: set[str] = set()
    seq = decisions = 0
    with EventLog(target, 0, router=router) as log:

        def add(event: Event, at_us: int, session_id: str = "") -> None:
            nonlocal seq
            seq += 1
            log.add(seq, at_us, event, session_id)

        for place, one in rounds():
            with _at(place):
                one.check()
                _require(
                    len(arms | set(one.arms)) <= _MOST_ARMS,
                    "arm",
                    f"there are more than {_MOST_ARMS}: these are no arms of a router",
                )
            if not decisions:
                add(RouterPut(settings=settings), one.at_us)
            for arm in one.arms:
                if arm not in arms:
                    arms.add(arm)
                    add(ArmPut(arm=Arm(id=arm)), one.at_us)
            for event in _events(one, settings):
                add(event, one.at_us, one.id)
            decisions += 1
    if not decisions:
        raise InvalidInput("IN", "there are no decisions in it")
    return decisions, len(arms)


def _events(one: Round, settings: RouterSettings) -> Iterator[Event]:
    arm = one.arms[one.chosen]
    # Decisions of all routers share their names; two logs of one origin must not be in each other's way.
    decision_id = f"{settings.id}:{one.id}"
    situation = Situation(
        router=settings.id,
        seed=settings.seed,
        session_id=one.id,
        attempt=1,
        attempts_left=1,
        features=without_texts(one.features),
        offers=tuple(Offer(arm=arm) for arm in one.arms),
        objective=settings.objective,
        exploration_floor=settings.exploration_floor,
        draws=settings.draws,
        alpha=settings.alpha,
    )
    decision = Decision(
        decision_id=decision_id,
        situation=situation,
        arm=arm,
        propensity=one.propensities[one.chosen],
        reason=SelectReason.SAMPLED if len(one.arms) > 1 else SelectReason.ONLY_ELIGIBLE,
        scores=tuple(ArmScore(arm=arm, propensity=p) for arm, p in zip(one.arms, one.propensities, strict=True)),
        policy=POLICY,
        policy_version=POLICY,
        epoch=0,
        epoch_hash="",
    )
    yield Decided(decision=decision)
    outcome = Outcome(success=one.success, cost_usd=one.cost_usd)
    yield Rewarded(session_id=one.id, decision_id=decision_id, outcome=outcome, revision=1, final=True)


def _check_unique(rounds: Rounds, written: Path) -> None:
    """That no id is there twice, found out of core; where one is, the file is read again for its place."""
    with (
        tempfile.TemporaryDirectory(prefix="pointsman-") as folder,
        duck.connect_out_of_core(Path(folder), threads=1, memory_mb=_MEMORY_MB) as connection,
    ):
        twice = connection.execute(
            "SELECT session_id FROM read_parquet($1) WHERE kind = 'decided' "
            "GROUP BY session_id HAVING count(*) > 1 ORDER BY min(seq) LIMIT 1",
            [f"{written}/*.parquet"],
        ).fetchall()
    for (id_,) in twice:
        places = (place for place, one in rounds() if one.id == id_)
        first, second = next(places), next(places)
        with _at(second):
            raise InvalidInput("id", f"{id_!r} is that of {first} already")


@contextlib.contextmanager
def _at(place: str) -> Iterator[None]:
    try:
        yield
    except InvalidInput as error:
        raise InvalidInput(f"{place}: {error.field}", error.why) from error


def _check_name(field: str, name: str, most: int = _MOST_CHARACTERS) -> None:
    fine = 0 < len(name) <= most and _CONTROL.search(name) is None
    _require(fine, field, f"must be 1 to {most} characters, none of them a control character")


def _require(holds: bool, field: str, why: str) -> None:
    if not holds:
        raise InvalidInput(field, why)


def as_text(value: str) -> str | Text:
    """A category, or a text where it is too long for one."""
    return value if len(value) <= _MOST_CHARACTERS else Text(value)
