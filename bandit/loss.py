"""What an attempt came to as one number, for policies that learn from nothing else."""

from bandit.cost import dollars
from bandit.session import AttemptRow


def loss(row: AttemptRow) -> float | None:
    """1 - success + (cost + kappa x seconds) / value, >= 0, with the prices of the row's own decision.

    None where success is unknown; an alarm without truth counts as a failure. A cost that was not told is that of the
    usage at the offer's list price, or 0 where there is no usage either; seconds that were not told are 0. The price
    of the budget is left out: it changes from one decision to the next, and what was learned would be out of date.
    """
    success = 0.0 if row.success is None and row.alarm else row.success
    if success is None:
        return None
    situation = row.decision.situation
    price = next((offer.price for offer in situation.offers if offer.arm == row.arm), None)
    paid_usd = dollars(row, price) or 0.0
    waited_usd = situation.objective.latency_usd_per_second * (row.latency_seconds or 0.0)
    return 1.0 - success + (paid_usd + waited_usd) / situation.objective.value_usd
