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


class World(Protocol):
    """Tasks, arms, and the outcome of every arm on every task. The same world whenever it is asked.

    Tasks and arms are known by their positions in `tasks` and `arms`.
    """

    @property
    def name(self) -> str:
        """What people call it."""
        ...

    @property
    def arms(self) -> tuple[Arm, ...]:
        """The arms of a run, in the order in which a router gets them."""
        ...

    @property
    def tasks(self) -> Sequence[Task]:
        """The tasks that sessions are made of."""
        ...

    @property
    def success(self) -> Floats:
        """Chance of success of each arm on each task, shape (n_tasks, n_arms), in [0, 1].

        Given the task, the successes of different arms are independent of each other.
        """
        ...

    @property
    def cost_usd(self) -> Floats:
        """Dollars of an attempt, shape (n_tasks, n_arms), >= 0."""
        ...

    def outcome(self, task: int, arm: int, attempt: int) -> Outcome:
        """What attempt number `attempt` of `arm` on `task` comes to; its `success` is a chance, drawn by the runner."""
        ...


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
