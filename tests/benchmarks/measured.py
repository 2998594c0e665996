"""Measured outcomes of real sessions, kept outside the project: the pools that targets are set on, and halves of them.

They are found in the folder that is given, else the one that `POINTSMAN_DATA` names, else `../shared/data` beside the
project: outcomes.parquet, tasks.parquet and models.csv, as `simulate` reads them.
"""

import dataclasses
import functools
import os
from pathlib import Path

import msgspec
import numpy as np
import numpy.typing as npt

from bandit.types import Figure
from sim import outcomes
from sim.world import Table

POOLS = {
    "eight": (
        "claude-opus-4-8",
        "claude-opus-4-7",
        "GPT-5.5",
        "MiniMax-M3",
        "Kimi-K2.6",
        "DeepSeek-V4-Pro",
        "Gemini-3-Flash",
        "MiniMax-M2.7",
    ),
    "factory3": ("claude-opus-4-7", "Kimi-K2.6", "MiniMax-M2.7"),
}
"""Name -> its arms. `factory3` is what a commercial session router is reported to choose from."""

BESIDE = Path(__file__).resolve().parents[2].parent / "shared" / "data"


def folder(given: Path | None = None) -> Path | None:
    """Where the outcomes are, or None where there are none."""
    named = os.environ.get("POINTSMAN_DATA")
    found = given or (Path(named) if named else BESIDE)
    return found if (found / "outcomes.parquet").is_file() else None


@functools.cache
def pool(data: Path, name: str) -> Table:
    """A pool by name: the tasks on which each of its arms has a verdict."""
    world = outcomes.read(
        outcomes=data / "outcomes.parquet",
        tasks=data / "tasks.parquet",
        prices=data / "models.csv",
        arms=POOLS[name],
    )
    return dataclasses.replace(world, name=name)


def part(world: Table, tasks: npt.NDArray[np.int64]) -> Table:
    """The world of some of its tasks, by their positions."""
    return dataclasses.replace(
        world,
        tasks=tuple(world.tasks[i] for i in tasks.tolist()),
        success=world.success[tasks],
        cost_usd=world.cost_usd[tasks],
        usage=None if world.usage is None else world.usage[tasks],
        latency_seconds=None if world.latency_seconds is None else world.latency_seconds[tasks],
    )


def halves(world: Table, split: int) -> tuple[Table, Table]:
    """The tasks split in two at random; `split` is the seed."""
    order = np.random.default_rng(split).permutation(len(world.tasks))
    middle = len(order) // 2
    return part(world, order[:middle]), part(world, order[middle:])


def told(world: Table, of: Table) -> Table:
    """The world, its arms with the figures by category that another one's tasks give, as a benchmark would publish."""
    categories = np.array([str(task.features.get("category", "")) for task in of.tasks])
    arms = []
    for k, arm in enumerate(world.arms):
        figures = tuple(
            Figure(
                category=category,
                success_rate=float(of.success[categories == category, k].mean()),
                cost_usd=float(of.cost_usd[categories == category, k].mean()),
            )
            for category in np.unique(categories).tolist()
        )
        arms.append(msgspec.structs.replace(arm, figures=figures))
    return dataclasses.replace(world, arms=tuple(arms))
