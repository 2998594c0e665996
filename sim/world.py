"""What a world is: tasks with features, arms, and what an arm would do on a task."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Protocol

import msgspec
import numpy as np
import numpy.typing as npt

from bandit.types import Arm, Features, Outcome, Usage

Floats = npt.NDArray[np.float64]


class Terms(msgspec.Struct, frozen=True, kw_only=True):
    """The rules a run is played by; policies and references are held to the same ones."""

    value_usd: float = 5.0
    """Dollars that a successful session is worth, > 0."""
    detect: float = 1.0
    """Probability that a failed attempt is noticed, in [0, 1]."""
    false_alarm: float = 0.0
    """Probability that a good attempt is thought failed, in [0, 1]."""
    max_attempts: int = 3
    """Attempts a session may have, >= 1."""
    delay: int = 0
    """How many more sessions have begun when it is told how an attempt went, >= 0. Alarms are raised at once."""


class Task(msgspec.Struct, frozen=True, kw_only=True):
    """One piece of work, and what may be known of it before it begins."""

    id: str
    features: Features = {}


class Change(msgspec.Struct, frozen=True, kw_only=True):
    """What changes in mid-stream."""

    at: int
    """The session, counted from 0, before which it happens, and from which on sessions are of the tasks from this
    position on: a task belongs to the time in which it comes."""
    put: tuple[Arm, ...] = ()
    """What the router is told of arms: new ones, new prices, retirements."""


class World(Protocol):
    """Tasks, arms, and the outcome of every arm on every task. The same world whenever it is asked.

    Tasks and arms are known by their positions in `tasks` and in what `every_arm` gives.
    """

    @property
    def name(self) -> str:
        """What people call it."""
        ...

    @property
    def arms(self) -> tuple[Arm, ...]:
        """The arms that a run begins with, in the order in which a router gets them."""
        ...

    @property
    def changes(self) -> Sequence[Change]:
        """What changes in mid-stream, in order; mostly nothing."""
        ...

    @property
    def verdicts(self) -> tuple[float, float]:
        """Chance that a session's final success is ever told: where it failed, and where it succeeded."""
        ...

    @property
    def tasks(self) -> Sequence[Task]:
        """The tasks that sessions are made of."""
        ...

    @property
    def success(self) -> Floats:
        """Chance of success of each arm on each task, shape (n_tasks, n_arms), in [0, 1].

        NaN where the arm is not there in the task's time. Given the task, the successes of different arms are
        independent of each other.
        """
        ...

    @property
    def cost_usd(self) -> Floats:
        """Dollars of an attempt, shape (n_tasks, n_arms), >= 0; NaN where the arm is not there."""
        ...

    def outcome(self, task: int, arm: int, attempt: int) -> Outcome:
        """What attempt number `attempt` of `arm` on `task` comes to; its `success` is a chance, drawn by the runner."""
        ...


def every_arm(world: World) -> tuple[Arm, ...]:
    """The arms that are there at any time, each as it is first put, in that order."""
    first: dict[str, Arm] = {}
    for arm in (*world.arms, *(arm for change in world.changes for arm in change.put)):
        first.setdefault(arm.id, arm)
    return tuple(first.values())


def phases(world: World, sessions: int | None = None) -> tuple[tuple[range, range], ...]:
    """The sessions between changes and the tasks they are of, for a run of each task once or of `sessions` sessions.

    Phases that such a run does not come to are left out; the last one that there is goes on to the end.
    """
    n_tasks = len(world.tasks)
    starts = [0, *(change.at for change in world.changes)]
    ends = [*starts[1:], n_tasks]
    whole = n_tasks if sessions is None else sessions
    lasts = [*starts[1:], whole]
    return tuple(
        (range(start, min(last, whole)), range(start, end))
        for start, end, last in zip(starts, ends, lasts, strict=True)
        if start < whole
    )


def shares(world: World, sessions: int | None = None) -> Floats:
    """The share of a run's sessions that each task is expected to have, shape (n_tasks,)."""
    of_task = np.zeros(len(world.tasks))
    for run, tasks in phases(world, sessions):
        of_task[tasks.start : tasks.stop] = len(run) / len(tasks)
    return np.asarray(of_task / of_task.sum())


@dataclass(frozen=True, kw_only=True, eq=False)
class Table:
    """A world that is a table of tasks by arms: it makes no difference at which attempt an arm is tried."""

    name: str
    arms: tuple[Arm, ...]
    tasks: tuple[Task, ...]
    success: Floats
    cost_usd: Floats
    usage: Floats | None = None
    """Input, output and cached tokens, shape (n_tasks, n_arms, 3), NaN where unknown; None where none is known."""
    latency_seconds: Floats | None = None
    """Shape (n_tasks, n_arms), NaN where unknown; None where none is known."""
    changes: tuple[Change, ...] = ()
    verdicts: tuple[float, float] = (1.0, 1.0)

    def outcome(self, task: int, arm: int, attempt: int) -> Outcome:
        """What the arm comes to on the task, at whichever attempt."""
        usage = latency = None
        if self.usage is not None:
            tokens = self.usage[task, arm].tolist()
            if not np.isnan(tokens[0]):
                usage = Usage(input_tokens=tokens[0], output_tokens=tokens[1], cached_tokens=tokens[2])
        if self.latency_seconds is not None:
            seconds = float(self.latency_seconds[task, arm])
            latency = None if np.isnan(seconds) else seconds
        return Outcome(
            success=float(self.success[task, arm]),
            cost_usd=float(self.cost_usd[task, arm]),
            usage=usage,
            latency_seconds=latency,
        )
