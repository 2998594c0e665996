"""Simulated canaries: how many sessions a verdict takes, and how often it is wrong, by true difference in success.

usage: python -m tests.benchmarks.canaries [--runs 200] [--share 0.5] [--most 30000]

The live policy resolves .8 of the sessions. What it foretells of a session explains .15 of the outcomes' variance, as
features of recorded coding sessions do. A run ends with the first verdict, or undecided after `--most` sessions.
"""

import argparse
import math
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from bandit.evidence import Conclusion, Evidence, Figures

SUCCESS = 0.8
EXPLAINED = 0.15
MOST_SESSIONS = 30_000


@dataclass(frozen=True, kw_only=True)
class Run:
    """How one canary ended."""

    conclusion: Conclusion
    sessions: int


def sessions(rng: np.random.Generator, difference: float, share: float) -> Iterator[tuple[bool, Figures, Figures]]:
    """Who decides each session, what was foretold of it, and what became of it."""
    # A chance with mean .8 whose variance is that share of a success's.
    total = 1.0 / EXPLAINED - 1.0
    while True:
        chances = rng.beta(SUCCESS * total, (1.0 - SUCCESS) * total, 1000)
        draws = rng.random((2, 1000))
        for chance, assigned, drawn in zip(chances.tolist(), *draws.tolist(), strict=True):
            by_canary = assigned < share
            # The same difference for every session, on average: what is cut off at 1 is made up for below it.
            true = chance + difference * by_canary * (1.0 - chance if difference > 0 else chance) / (
                1.0 - SUCCESS if difference > 0 else SUCCESS
            )
            yield by_canary, Figures(success=chance), Figures(success=float(drawn < true))


def run(seed: int, difference: float, share: float = 0.5, most: int = MOST_SESSIONS) -> Run:
    """One canary, from its first session to its verdict, or to `most` sessions."""
    evidence = Evidence(gate="", share=share, value_usd=5.0)
    for count, session in enumerate(sessions(np.random.default_rng(seed), difference, share), 1):
        evidence = evidence.add(*session)
        conclusion = evidence.verdict().conclusion
        if conclusion != "undecided" or count == most:
            return Run(conclusion=conclusion, sessions=count)
    raise AssertionError("sessions never end")


def main() -> None:
    """Prints a row a difference."""
    parser = argparse.ArgumentParser()
    parser.add_argument("--runs", type=int, default=200)
    parser.add_argument("--share", type=float, default=0.5)
    parser.add_argument("--most", type=int, default=MOST_SESSIONS)
    asked = parser.parse_args()
    print("| true difference | promoted | rolled back | undecided | median sessions | 90 % within |")
    print("|---|---|---|---|---|---|")
    for difference in (0.03, 0.0, -0.01, -0.02, -0.03):
        runs = [run(seed, difference, asked.share, asked.most) for seed in range(asked.runs)]
        ended = np.array([each.sessions if each.conclusion != "undecided" else math.inf for each in runs])
        shares = [
            f"{100 * sum(each.conclusion == conclusion for each in runs) / len(runs):.1f} %"
            for conclusion in ("promote", "roll_back", "undecided")
        ]
        median, late = (np.quantile(ended, q, method="inverted_cdf") for q in (0.5, 0.9))
        print(f"| {100 * difference:+.0f} points | {' | '.join(shares)} | {median:,.0f} | {late:,.0f} |", flush=True)


if __name__ == "__main__":
    main()
