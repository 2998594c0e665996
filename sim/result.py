"""What a simulation found, as data: the JSON document of `pointsman simulate`."""

import msgspec


class Three(msgspec.Struct, kw_only=True, frozen=True):
    """Means over sessions."""

    success_rate: float
    cost_usd_per_session: float
    utility_per_session: float
    """Dollars: value x success - cost."""


class Four(Three, kw_only=True, frozen=True):
    """Means over sessions, of a policy that ran."""

    escalation_rate: float
    """Share of sessions with more than one attempt."""


class Foretold(msgspec.Struct, kw_only=True, frozen=True):
    """What was foretold of attempts against what they came to; None where nothing was foretold, or nothing follows.

    Of an attempt only what was foretold before it began counts. Standard errors take the attempts on a task, of all
    seeds, as one draw: they are one where the table of outcomes has one outcome a task.
    """

    attempts: int
    """Attempts of which anything was foretold."""
    brier: float | None
    """Mean square of the foretold chance of success minus success, which is 0 or 1: the less the better."""
    bias: float | None
    """Mean foretold chance of success minus the rate of success: above 0 promises too much."""
    bias_stderr: float | None
    cost_ratio: float | None
    """Dollars spent over dollars foretold: above 1 promises too little."""
    cost_ratio_stderr: float | None


class Calibration(Foretold, kw_only=True, frozen=True):
    """Of all attempts, and of each arm's."""

    arms: dict[str, Foretold]
    """Arms of which anything was foretold."""


class PolicyResult(Four, kw_only=True, frozen=True):
    """How a policy did, over all its seeds."""

    name: str
    """The policy as given."""
    seeds: int
    sessions: int
    """Sessions of each seed."""
    stderr: Four
    """Standard errors of the means: between seeds, or with one seed between its sessions."""
    second_half: Four
    """Means over the second half of each seed's sessions."""
    events_per_second: float
    """Attempts decided and learned from per second of one process."""
    calibration: Calibration | None
    """None of a policy that foretells nothing."""


class SingleReference(Three, kw_only=True, frozen=True):
    """The best arm alone."""

    arm: str


class LadderReference(Three, kw_only=True, frozen=True):
    """The best fixed ladder."""

    ladder: str
    """As in ``A>B>C``."""


class References(msgspec.Struct, kw_only=True, frozen=True):
    """What fixed choices come to on the very tasks of the run, in expectation."""

    always: dict[str, Three]
    best_single: SingleReference
    best_fixed_ladder: LadderReference
    oracle: Three


class Difference(msgspec.Struct, kw_only=True, frozen=True):
    """Utility a session in dollars, policy minus reference, with its 95 % interval."""

    difference: float
    low: float
    high: float


class OptimumResult(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True):
    """The best that can be done over all tasks a synthetic world may ever make; utilities in dollars a session."""

    first_session: int = 0
    """Where what it is about begins."""

    best_single: str
    best_single_utility: float
    best_fixed_ladder: str
    best_fixed_ladder_utility: float
    best_policy_utility: float
    phases: tuple["OptimumResult", ...] = ()
    """Worlds that change only: the best between changes."""


class Result(msgspec.Struct, kw_only=True, frozen=True, omit_defaults=True):
    """All of it."""

    tasks: int
    arms: tuple[str, ...]
    value: float
    policies: tuple[PolicyResult, ...]
    references: References
    paired: dict[str, dict[str, Difference]]
    """Policy -> best_single, best_fixed_ladder, oracle, always:ARM or another policy -> the difference."""
    optimum: OptimumResult | None = None
    """Synthetic worlds only."""
