"""What was foretold of every attempt of a run, and what it came to: a few numbers each."""

from array import array
from dataclasses import dataclass, fields

import numpy as np
import numpy.typing as npt

from sim.world import Floats

Whole = npt.NDArray[np.int32]


@dataclass(frozen=True, kw_only=True, eq=False)
class Attempts:
    """The attempts of a run in the order in which they began; arrays have shape (n_attempts,).

    What is foretold is the score of the arm taken, at the decision: nothing of the attempt, or of what came later,
    had been learned.
    """

    session: Whole
    """Position of its session in the run."""
    number: Whole
    """Which attempt of its session it is, from 1."""
    arm: Whole
    """Position in `every_arm`."""
    foretold_success: Floats
    """Chance of success, NaN where the policy foretells none."""
    foretold_usd: Floats
    """Dollars, NaN where the policy foretells none."""
    success: Floats
    """Whether it was good, 0 or 1; where it was left as it ran, whether it would have been."""
    cost_usd: Floats
    """Dollars that were spent on it."""
    left: npt.NDArray[np.bool_]
    """Whether it was left, or was to be: an alarm was raised, or reports told that it struggled."""

    def __len__(self) -> int:
        return len(self.session)


class Notes:
    """Takes attempts as they end."""

    def __init__(self) -> None:
        self._numbers = array("d")

    def add(
        self,
        *,
        session: int,
        number: int,
        arm: int,
        foretold_success: float | None,
        foretold_usd: float | None,
        success: float,
        cost_usd: float,
        left: bool,
    ) -> None:
        """Notes the next attempt."""
        nothing = float("nan")
        self._numbers.extend(
            (
                session,
                number,
                arm,
                nothing if foretold_success is None else foretold_success,
                nothing if foretold_usd is None else foretold_usd,
                success,
                cost_usd,
                left,
            )
        )

    def all(self) -> Attempts:
        """All that were noted."""
        session, number, arm, foretold_success, foretold_usd, success, cost_usd, left = (
            np.array(self._numbers).reshape(-1, len(fields(Attempts))).T.copy()
        )
        return Attempts(
            session=session.astype(np.int32),
            number=number.astype(np.int32),
            arm=arm.astype(np.int32),
            foretold_success=foretold_success,
            foretold_usd=foretold_usd,
            success=success,
            cost_usd=cost_usd,
            left=left.astype(np.bool_),
        )


def none() -> Attempts:
    """Of a run that noted nothing."""
    return Notes().all()
