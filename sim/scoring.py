"""Candidates scored on a log, block by block: the pieces of a block side by side, by workers.

Everything that a session's numbers lean on, the model and the session's weight among the others, was settled by blocks
before its own. So the pieces of a block may be worked out anywhere and in any order; what they come to is added up in
the order of the log, and the sums are the same to the bit whoever did the work.
"""

import functools
import itertools
import math
import operator
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np

from bandit.estimators import Moments, Trajectories
from bandit.types import Features
from sim import workers
from sim.candidates import Candidate
from sim.evaluation import Evaluation, Rows
from sim.fitted_q import LARGEST_WINDOW, Fitter, Lesson, Shown
from sim.nuisances import Model, Totals, View
from sim.piece import Logged, Part, Piece
from sim.trust import Seen, Tally
from sim.world import Floats

_FIRST_BLOCK, _GROWTH = 32, 1.5
"""Sessions of the first block, and how the log grows from one refit to the next."""


def evaluate(log: Logged, candidate: Candidate, *, value_usd: float, baseline: Candidate | None = None) -> Evaluation:
    """`evaluate_all` of one, in this process."""
    (evaluation,) = evaluate_all(log, [candidate], value_usd=value_usd, baseline=baseline)
    return evaluation


def evaluate_all(
    log: Logged,
    candidates: Sequence[Candidate],
    *,
    value_usd: float,
    baseline: Candidate | None = None,
    jobs: int = 1,
    ray: str | None = None,
    on_sessions: Callable[[int], None] = lambda _n: None,
) -> list[Evaluation]:
    """Scores each candidate on the sessions from its `begins` on (and from the baseline's); without a baseline they are
    compared with what was logged. `on_sessions` is told of sessions that are done; `jobs` and `ray` are as in
    `workers.working`, and change nothing."""
    asked = _Asked(log=log, candidates=tuple(candidates), baseline=baseline, value_usd=value_usd)
    fitters = [Fitter(len(log.arms), log.longest) for _ in asked.policies]
    scores = [_Score.nothing(asked) for _ in candidates]
    with workers.working(_score, asked, jobs=jobs, ray=ray) as working:
        for begin, end in _blocks(log.sessions):
            firsts = range(begin, end, log.largest_piece)
            pieces = [(first, min(first + log.largest_piece, end)) for first in firsts]
            models = [fitter.model for fitter in fitters]
            calls = {piece: (models, *piece, end - piece[1] < LARGEST_WINDOW) for piece in pieces}
            found = working.run(calls, on_result=lambda piece: on_sessions(piece[1] - piece[0]))
            for piece in pieces:
                for score, more in zip(scores, found[piece].scores, strict=True):
                    score.merge(more)
            for number, fitter in enumerate(fitters):
                fitter.learn([found[piece].lessons[number] for piece in pieces])
    tails = [fitter.model.totals.tails.expected()[0] for fitter in fitters]
    of_baseline = tails[len(candidates) :]
    return [score.evaluation(asked, [mine, *of_baseline]) for score, mine in zip(scores, tails, strict=False)]


def _blocks(sessions: int) -> Iterator[tuple[int, int]]:
    """Where blocks begin and end."""
    cuts, at = [0], float(_FIRST_BLOCK)
    while at < sessions:
        cuts.append(int(at))
        at *= _GROWTH
    return itertools.pairwise([*cuts, sessions])


@dataclass(frozen=True, kw_only=True, eq=False)
class _Asked:
    """What is to be scored."""

    log: Logged
    candidates: tuple[Candidate, ...]
    baseline: Candidate | None
    value_usd: float

    @property
    def policies(self) -> tuple[Candidate, ...]:
        """The candidates, and last the baseline if there is one."""
        return self.candidates if self.baseline is None else (*self.candidates, self.baseline)

    @property
    def rows(self) -> Rows:
        """What a session contributes to a candidate's estimates."""
        return Rows(self.log.longest, with_baseline=self.baseline is not None)


@dataclass(frozen=True, kw_only=True, eq=False)
class _Score:
    """What a candidate came to on some sessions."""

    moments: Moments
    tallies: tuple[Tally, ...]
    """Of the candidate, and of the baseline if there is one."""
    leverage: Floats
    """Sums of what weighting makes of the moments of each first action's dollars (`View.leverage`), times the session's
    weight to their order: of the candidate and of the baseline, shape (n_sides, n_arms + 1, 2)."""

    @classmethod
    def nothing(cls, asked: _Asked) -> "_Score":
        """Of no sessions."""
        n_actions, n_sides = len(asked.log.arms) + 1, 1 if asked.baseline is None else 2
        return cls(
            moments=Moments(asked.rows.width),
            tallies=tuple(Tally(n_actions) for _ in range(n_sides)),
            leverage=np.zeros((n_sides, n_actions, 2)),
        )

    def add(self, asked: _Asked, piece: Piece, sides: Sequence[Seen], begins: int) -> None:
        """Takes in those sessions of a piece, as the candidate and the baseline see it, that come to count."""
        # Where a session begins with what its user had pinned there was nothing to decide.
        free = ~piece.pinned[:, 0] & (piece.numbers >= begins)
        rows = asked.rows.of(piece, *sides)
        self.moments.add(rows if free.all() else rows[free])
        for number, side in enumerate(sides):
            self.tallies[number].add(piece, side, free)
            for j, order in enumerate((2, 3)):
                self.leverage[number, :, j] += side.weight**order * (free @ side.view.leverage[:, 0, :, j])

    def merge(self, other: "_Score") -> None:
        """Takes in what it came to on others."""
        self.moments.merge(other.moments)
        for mine, theirs in zip(self.tallies, other.tallies, strict=True):
            mine.merge(theirs)
        self.leverage[:] += other.leverage

    def evaluation(self, asked: _Asked, moments: Sequence[Floats]) -> Evaluation:
        """What it came to. `moments` of the dollars that actions at the first step lead to, second and third, as all
        that is known in the end has them: for the candidate and the baseline, each of shape (n_arms + 1, 2)."""
        if not self.moments.count:
            # All rows are 0 then, and so are the estimates.
            self.moments.add(np.zeros((1, asked.rows.width)))
        tails = (self.leverage * np.stack(moments)).sum(axis=1) / self.moments.count
        trusts = [tally.trust() for tally in self.tallies]
        return Evaluation(asked.rows, self.moments, trusts, asked.value_usd, list(tails))


@dataclass(frozen=True, kw_only=True, eq=False)
class _Scored:
    """What is found of a piece."""

    scores: list[_Score]
    """Of each candidate."""
    lessons: list[Lesson]
    """For each policy's model."""


def _score(asked: _Asked, models: Sequence[Model], first: int, end: int, recent: bool) -> _Scored:
    """Scores the sessions from number `first` up to before `end` by models of earlier ones. `recent`: they are among
    those that models are fitted on next."""
    piece = asked.log.piece(first, end)
    parts = piece.parts()
    seen, lessons = [], []
    for policy, model in zip(asked.policies, models, strict=True):
        # A pinned arm is taken whatever the policy.
        targets = np.where(piece.pinned[:, :, None], piece.propensities, policy.targets(piece))
        seen.append(_seen(parts, targets, model, piece.known, asked.value_usd))
        shown = Shown(piece=piece, targets=targets, reward=model.made_good(piece)) if recent else None
        lessons.append(Lesson(totals=_totals(parts, seen[-1], model), shown=shown))
    sides = seen[len(asked.candidates) :]
    scores = []
    for policy, candidate in zip(asked.candidates, seen, strict=False):
        begins = max(policy.begins, asked.baseline.begins if asked.baseline else 0)
        score = _Score.nothing(asked)
        for part, *views in zip(parts, candidate, *sides, strict=True):
            score.add(asked, part.piece, views, begins)
        scores.append(score)
    return _Scored(scores=scores, lessons=lessons)


def _seen(
    parts: Sequence[Part], targets: Floats, model: Model, known: Sequence[Features], value_usd: float
) -> list[Seen]:
    """A piece, part by part, as a policy of these targets sees it."""
    contexts = model.contexts(known)
    wanted = [part.of(targets) for part in parts]
    views = [model.view(part.piece, mine, contexts) for part, mine in zip(parts, wanted, strict=True)]
    weight = _weight(views, value_usd)
    return [
        Seen(targets=mine, view=view, trajectories=_trajectories(part.piece, mine, view), weight=weight)
        for part, mine, view in zip(parts, wanted, views, strict=True)
    ]


def _totals(parts: Sequence[Part], seen: Sequence[Seen], model: Model) -> Totals:
    counted = (model.count(part.piece, one.targets, one.view) for part, one in zip(parts, seen, strict=True))
    return functools.reduce(operator.add, counted)


def _weight(views: Sequence[View], value_usd: float) -> float:
    """One over the foretold standard deviation of a session's estimate: sessions of a time when the log hardly did what
    the candidate does count less. Hadad, Hirshberg, Zhan, Wager and Athey (2021), Confidence intervals for policy
    evaluation in adaptive experiments, PNAS 118(15); variance-stabilising weights, by piece."""
    spread = np.concatenate([view.spread for view in views])
    success, cost, both = spread.mean(axis=0).tolist()
    foretold = value_usd**2 * success + cost - 2.0 * value_usd * both
    return float(1.0 / math.sqrt(max(foretold, 1e-12)))


def _trajectories(piece: Piece, targets: Floats, view: View) -> Trajectories:
    """What the estimators are given.

    Where the target gives up and the log never would have, nothing need be seen of it: giving up costs nothing and
    leaves the last attempt's outcome as it is. So that share of the target's is settled at once, by what is known of
    alarms, instead of being unsupported.
    """
    target, logged = piece.of_action(targets), piece.of_action(piece.propensities)
    # A chance of 0 that was taken all the same is a defect of the log; it shows in its diagnostics.
    ratio = np.where(piece.there, target / np.maximum(logged, 1e-9), 1.0)
    settled = np.where(piece.propensities[:, :, -1] > 0.0, 0.0, targets[:, :, -1])
    return Trajectories(
        ratio=ratio,
        reward=view.reward,
        taken=view.taken,
        expected=view.expected,
        settled=settled,
        settled_reward=settled[:, :, None] * view.values[:, :, -1],
    )
