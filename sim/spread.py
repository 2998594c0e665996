"""The runs of a simulation, spread over workers: the same numbers whatever their number."""

from collections.abc import Callable, Mapping
from pathlib import Path

from bandit.types import RouterSettings
from sim import runner, workers
from sim.event_log import EventLog, folder
from sim.runner import Run
from sim.world import Terms, World


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

    `policies` are, by name, what the router of each is set to, but for its seed. `jobs` and `ray` are as in
    `workers.working`. Raises what `runner.run` raises, and InvalidInput where there is no such cluster.
    """
    calls = {(name, seed): (name, policies[name], seed) for seed in range(seeds) for name in policies}
    given = (world, terms, sessions, log)
    with workers.working(_run, given, jobs=min(jobs, len(calls)), ray=ray) as working:
        done = working.run(calls, on_result=lambda _: on_run())
    return {name: [done[name, seed] for seed in range(seeds)] for name in policies}


def _run(given: tuple[World, Terms, int | None, Path | None], name: str, policy: RouterSettings, seed: int) -> Run:
    world, terms, sessions, log = given
    if log is None:
        return runner.run(world, terms, policy, seed, sessions)
    with EventLog(folder(log, name, seed), seed) as events:
        return runner.run(world, terms, policy, seed, sessions, log=events.add)
