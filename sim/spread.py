"""Runs spread over processes, or over a Ray cluster: the same numbers whatever their number.

A worker gets the world once, when it starts, and runs with one BLAS thread, since the last bits of a fit depend on
the number of threads.
"""

import multiprocessing
import os
from collections.abc import Callable, Mapping
from concurrent.futures import Future, ProcessPoolExecutor, as_completed
from pathlib import Path

import threadpoolctl  # type: ignore[import-untyped]

from bandit.types import RouterSettings
from sim import runner
from sim.event_log import EventLog, folder
from sim.runner import Run
from sim.world import Terms, World

_THREADS = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


class _Worker:
    """What a worker process was given when it started."""

    world: World
    terms: Terms
    sessions: int | None
    log: Path | None


def cores() -> int:
    """Processor cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def run_all(
    world: World,
    terms: Terms,
    policies: Mapping[str, RouterSettings],
    *,
    seeds: int,
    sessions: int | None,
    jobs: int,
    on_run: Callable[[], None],
    log: Path | None = None,
    ray: str | None = None,
) -> dict[str, list[Run]]:
    """Every policy under seeds 0 … `seeds` - 1: name -> its runs by seed. `on_run` is called after each.
    The events of a run are written into a folder of its own under `log`.

    `policies` are, by name, what the router of each is set to, but for its seed. With one job everything runs in this
    process; with `ray`, the address of a cluster, each run is a task there. Raises what `runner.run` raises, and
    InvalidInput where there is no such cluster.
    """
    wanted = [(policy, seed) for seed in range(seeds) for policy in policies]
    done: dict[tuple[str, int], Run] = {}
    if ray is not None:
        from sim import ray_cluster  # ray is an extra, and takes long to import

        calls = {(policy, seed): (policy, policies[policy], seed, sessions, log) for policy, seed in wanted}
        done = ray_cluster.run(ray, _on_cluster, (world, terms), calls, on_result=on_run)
    elif jobs == 1:
        with threadpoolctl.threadpool_limits(limits=1):
            for policy, seed in wanted:
                done[policy, seed] = _logged(world, terms, policy, policies[policy], seed, sessions, log)
                on_run()
    else:
        # Spawned, not forked: a fork copies the locks of threads that it does not copy.
        with ProcessPoolExecutor(
            max_workers=min(jobs, len(wanted)),
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_start,
            initargs=(world, terms, sessions, log),
        ) as pool:
            futures: dict[Future[Run], tuple[str, int]] = {
                pool.submit(_run, policy, policies[policy], seed): (policy, seed) for policy, seed in wanted
            }
            try:
                for future in as_completed(futures):
                    done[futures[future]] = future.result()
                    on_run()
            except BaseException:
                pool.shutdown(cancel_futures=True)
                raise
    return {policy: [done[policy, seed] for seed in range(seeds)] for policy in policies}


def _on_cluster(
    given: tuple[World, Terms], name: str, policy: RouterSettings, seed: int, sessions: int | None, log: Path | None
) -> Run:
    with threadpoolctl.threadpool_limits(limits=1):
        return _logged(*given, name, policy, seed, sessions, log)


def _start(world: World, terms: Terms, sessions: int | None, log: Path | None) -> None:
    # Libraries that are loaded already obey the first, those to come the second.
    threadpoolctl.threadpool_limits(limits=1)
    os.environ.update(dict.fromkeys(_THREADS, "1"))
    _Worker.world, _Worker.terms, _Worker.sessions, _Worker.log = world, terms, sessions, log


def _run(name: str, policy: RouterSettings, seed: int) -> Run:
    return _logged(_Worker.world, _Worker.terms, name, policy, seed, _Worker.sessions, _Worker.log)


def _logged(
    world: World, terms: Terms, name: str, policy: RouterSettings, seed: int, sessions: int | None, log: Path | None
) -> Run:
    if log is None:
        return runner.run(world, terms, policy, seed, sessions)
    with EventLog(folder(log, name, seed), seed) as events:
        return runner.run(world, terms, policy, seed, sessions, log=events.add)
