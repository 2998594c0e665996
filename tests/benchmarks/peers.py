"""`make peers`: other people's contextual bandits on the very stream that `simulate` plays, single-shot.

MABWiser's and coba's learners (the latter's are Vowpal Wabbit's and its own) get the same tasks in the same order, the
same columns (`bandit.features`, all known beforehand, which is a favour) and one reward: success - cost / value,
held within [-1, 1] as `linucb`'s is. Coba's run in its own evaluator, so their speed is its own. What they earn is
compared with `thompson-single` on the same seeds.

They are the extra `bench`, pinned, and `make peers` installs it into an environment of its own.
"""

import argparse
import sys
import time
from collections.abc import Callable, Mapping, Sequence
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import numpy.typing as npt
from rich.console import Console

from bandit import sampling
from bandit.features import Encoder
from sim import compare, references, runner
from sim.runner import Run
from sim.world import Floats, Table, Terms
from tests.benchmarks import measured, sheets
from tests.benchmarks.sheets import Column, Sheet

OURS = ("thompson-single", "vw:squarecb", "vw:regcb", "vw:bag", "vw:cover", "linucb", "epsilon")
Play = Callable[["Stream"], tuple[list[int], float]]
"""Plays a stream: the arm taken in each session, and the seconds it took."""


class Stream:
    """One seed's sessions as a table of contexts and rewards."""

    def __init__(self, world: Table, terms: Terms, seed: int) -> None:
        self.seed = seed
        self.arms = [arm.id for arm in world.arms]
        self.task = runner.tasks_of(seed, world, None)
        encoder = Encoder(cap=1024).grow(task.features for task in world.tasks)
        self.contexts = np.nan_to_num([encoder.encode(world.tasks[i].features)[0] for i in self.task.tolist()])
        """Shape (n_sessions, n_columns), the intercept first."""
        self.success = np.array(
            [
                [float(sampling.uniform(b"sim success", seed, f"{seed}-{i}\0{arm}", 0) < p) for arm, p in pairs]
                for i, pairs in enumerate(zip(self.arms, world.success[t], strict=True) for t in self.task.tolist())
            ]
        )
        """Shape (n_sessions, n_arms), 0 or 1, as the runner draws it."""
        self.cost_usd: Floats = world.cost_usd[self.task]
        self.rewards = np.clip(self.success - self.cost_usd / terms.value_usd, -1.0, 1.0)


def mabwiser(name: str, **settings: float) -> Play:
    """A learning policy of MABWiser's; each arm is taken once first, for it cannot begin without outcomes."""

    def play(stream: Stream) -> tuple[list[int], float]:
        from mabwiser.mab import MAB, LearningPolicy

        bandit = MAB(stream.arms, getattr(LearningPolicy, name)(**settings), seed=stream.seed)
        n = len(stream.arms)
        taken: list[int] = np.random.default_rng(stream.seed).permutation(n).tolist()
        began = time.perf_counter()
        bandit.fit([stream.arms[k] for k in taken], stream.rewards[range(n), taken].tolist(), stream.contexts[:n])
        for i in range(n, len(stream.task)):
            context = stream.contexts[i : i + 1]
            arm = bandit.predict(context)
            taken.append(stream.arms.index(arm))
            bandit.partial_fit([arm], [float(stream.rewards[i, taken[-1]])], context)
        return taken, time.perf_counter() - began

    return play


def coba(name: str, *, sparse: bool = True, **settings: object) -> Play:
    """A learner of coba's in coba's evaluator. Sparse: columns by name and arms as labels; else vectors of both."""

    def play(stream: Stream) -> tuple[list[int], float]:
        import coba as cb

        rows = stream.contexts[:, 1:].tolist()  # coba has an intercept of its own
        contexts = [{f"c{j}": x for j, x in enumerate(row) if x} for row in rows] if sparse else rows
        actions = stream.arms if sparse else [tuple(row) for row in np.eye(len(stream.arms)).tolist()]
        rewards = stream.rewards.tolist()
        interactions = [cb.SimulatedInteraction(c, actions, r) for c, r in zip(contexts, rewards, strict=True)]
        evaluator = cb.SequentialCB(record=["action"], seed=stream.seed)
        learner = getattr(cb, name)(seed=stream.seed, **settings)
        began = time.perf_counter()
        answers = list(evaluator.evaluate(_Interactions(interactions), learner))
        return [actions.index(answer["action"]) for answer in answers], time.perf_counter() - began

    return play


class _Interactions:
    """What coba calls an environment."""

    params: Mapping[str, object] = {}

    def __init__(self, interactions: Sequence[object]) -> None:
        self._interactions = interactions

    def read(self) -> Sequence[object]:
        return self._interactions


PEERS: Mapping[str, Play] = {
    "MABWiser LinTS": mabwiser("LinTS"),
    "MABWiser LinTS, alpha .25": mabwiser("LinTS", alpha=0.25),
    "MABWiser LinUCB": mabwiser("LinUCB"),
    "MABWiser LinUCB, alpha .25": mabwiser("LinUCB", alpha=0.25),
    "MABWiser LinGreedy": mabwiser("LinGreedy"),
    "coba SquareCB": coba("VowpalSquarecbLearner"),
    "coba SquareCB, a and ax only": coba("VowpalSquarecbLearner", features=(1, "a", "ax")),
    "coba RegCB": coba("VowpalRegcbLearner"),
    "coba bag": coba("VowpalBagLearner"),
    "coba cover": coba("VowpalCoverLearner"),
    "coba LinUCB": coba("LinUCBLearner", sparse=False),
    "coba LinUCB, alpha .25": coba("LinUCBLearner", sparse=False, alpha=0.25),
    "coba LinTS, v .25": coba("LinTSLearner", sparse=False, v=0.25),
    "coba UCB, no context": coba("BanditUCBLearner"),
}
"""Name -> how it plays. Defaults, and beside them what is known to suit rewards of this size."""


def as_run(stream: Stream, taken: Sequence[int], seconds: float) -> Run:
    """What a peer did as `simulate` would tell it."""
    at = np.arange(len(stream.task)), np.asarray(taken)
    attempts: npt.NDArray[np.int64] = np.ones(len(stream.task), np.int64)
    success, cost = stream.success[at], stream.cost_usd[at]
    return Run(task=stream.task, success=success, cost_usd=cost, attempts=attempts, wall_seconds=seconds)


def sheet(world: Table, terms: Terms, seeds: int, peers: Mapping[str, Play], on_seed: Callable[[], None]) -> Sheet:
    """All of them on the same seeds, one after the other within each, so that speeds are of the same minutes."""
    runs: dict[str, list[Run]] = {name: [] for name in (*OURS, *peers)}
    for seed in range(seeds):
        stream = Stream(world, terms, seed)
        for policy in OURS:
            runs[policy].append(runner.run(world, terms, policy, seed))
        for name, play in peers.items():
            runs[name].append(as_run(stream, *play(stream)))
        on_seed()
    hindsight = references.look_back(world.success, world.cost_usd, terms)
    result = compare.compare(world, terms, hindsight, runs)
    ladder = result.references.best_fixed_ladder.utility_per_session
    rate = {policy.name: policy.events_per_second for policy in result.policies}
    rows = [
        {
            "policy": policy.name,
            "utility": policy.utility_per_session,
            "utility_stderr": policy.stderr.utility_per_session,
            "share": policy.utility_per_session / ladder,
            "second_half": policy.second_half.utility_per_session / ladder,
            "ours": result.paired["thompson-single"].get(policy.name),
            "rate": policy.events_per_second,
            "ratio": policy.events_per_second / rate["vw:squarecb"],
        }
        for policy in sorted(result.policies, key=lambda policy: -policy.utility_per_session)
    ]
    columns: list[Column] = [
        ("policy", sheets.text("policy")),
        ("utility", sheets.usd("utility")),
        ("of ladder", sheets.share("share")),
        ("2nd half", sheets.share("second_half")),
        ("thompson-single minus it", sheets.gap("ours")),
        ("sessions/s", lambda row: f"{row['rate']:,.0f}"),
        ("of vw:squarecb's", lambda row: f"{row['ratio']:.2f} x"),
    ]
    title = f"{world.name}, value {terms.value_usd:g}: {seeds} seeds, single-shot"
    return Sheet(name="peers", title=title, columns=columns, rows=rows)


def main() -> int:
    """Prints the table: 0, or 2 where the outcomes or the peers are missing."""
    parser = argparse.ArgumentParser(prog="python -m tests.benchmarks.peers", description=__doc__)
    parser.add_argument("--data", type=Path, help="folder of measured outcomes (POINTSMAN_DATA, or ../shared/data)")
    parser.add_argument("--pool", default="eight", choices=measured.POOLS)
    parser.add_argument("--value", type=float, default=5.0)
    parser.add_argument("--seeds", type=int, default=10)
    parser.add_argument("--markdown", type=Path, help="write the table there as well")
    given = parser.parse_args()
    data = measured.folder(given.data)
    if data is None:
        print("peers: no measured outcomes: name their folder with --data or POINTSMAN_DATA", file=sys.stderr)
        return 2
    if missing := [name for name in ("mabwiser", "coba") if find_spec(name) is None]:
        print(f"peers: {' and '.join(missing)} not installed; the extra bench has them: make peers", file=sys.stderr)
        return 2
    world, terms = measured.pool(data, given.pool), Terms(value_usd=given.value)
    with Console(stderr=True).status("playing") as status:
        done = [0]

        def on_seed() -> None:
            done[0] += 1
            status.update(f"played {done[0]} of {given.seeds} seeds")

        found = sheet(world, terms, given.seeds, PEERS, on_seed)
    found.show(Console() if sys.stdout.isatty() else Console(width=200))
    if given.markdown is not None:
        given.markdown.write_text(found.markdown(), encoding="utf-8")
    return 0


if __name__ == "__main__":
    sys.exit(main())
