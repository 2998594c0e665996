"""Runs of policies on measured outcomes: each a case that a process can be told in a few words."""

import functools
import multiprocessing
import os
from collections.abc import Callable, Iterable
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass
from pathlib import Path

import threadpoolctl

from sim import references, runner
from sim.references import Hindsight
from sim.runner import Run
from sim.world import Table, Terms
from tests.benchmarks import measured


@dataclass(frozen=True, kw_only=True)
class Place:
    """The tasks of a run: a pool, or one half of it under a split."""

    pool: str
    half: tuple[int, int] | None = None
    """Split, and which of its two halves; None: the whole pool."""
    figures: bool = False
    """Whether the arms come with the figures of the other half."""


@dataclass(frozen=True, kw_only=True)
class Case:
    """One policy, one seed, one pass over the tasks of a place."""

    place: Place
    terms: Terms
    policy: str
    seed: int


@functools.lru_cache(maxsize=4)
def world(data: Path, place: Place) -> Table:
    """The world of a place."""
    whole = measured.pool(data, place.pool)
    if place.half is None:
        return whole
    split, side = place.half
    both = measured.halves(whole, split)
    return measured.told(both[side], both[1 - side]) if place.figures else both[side]


@functools.cache
def hindsight(data: Path, place: Place, terms: Terms) -> Hindsight:
    """The references of a place, on its very tasks."""
    table = world(data, place)
    return references.look_back(table.success, table.cost_usd, terms)


def run(data: Path, case: Case) -> Run:
    """The run of a case."""
    return runner.run(world(data, case.place), case.terms, case.policy, case.seed)


def run_all(data: Path, cases: Iterable[Case], *, jobs: int, on_run: Callable[[], None]) -> dict[Case, Run]:
    """All runs; `on_run` is called after each. The same numbers whatever the number of processes."""
    # One place's cases one after the other, so that a process makes its world once.
    wanted = sorted(cases, key=lambda case: (case.place.pool, case.place.half or (-1, -1), case.place.figures))
    done: dict[Case, Run] = {}
    if jobs == 1:
        with threadpoolctl.threadpool_limits(limits=1):
            for case in wanted:
                done[case] = run(data, case)
                on_run()
        return done
    with ProcessPoolExecutor(
        max_workers=jobs, mp_context=multiprocessing.get_context("spawn"), initializer=_one_thread
    ) as pool:
        futures = {pool.submit(run, data, case): case for case in wanted}
        for future in as_completed(futures):
            done[futures[future]] = future.result()
            on_run()
    return done


def _one_thread() -> None:
    os.environ["OPENBLAS_NUM_THREADS"] = "1"
    threadpoolctl.threadpool_limits(limits=1)
