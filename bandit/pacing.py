"""Budget pacing: a price on dollars that makes spending last as long as the period it is for.

Under a budget a decision maximises V x success - (1 + price) x cost. The price is a fold over a router's events, on a
logarithmic scale: with z = ln(1 + price), B what is left of the budget and T what is left of the period,

    z <- z + (spent - due) / s,   due = B dt / T,   s^2 = (budget / 100)^2 + sum of the squares of what was spent.

So it rises where money goes faster than the rest of the budget lasts, and falls where it goes slower. It is dual
gradient descent (Agrawal & Devanur, Bandits with concave rewards and convex knapsacks, EC 2014,
doi:10.1145/2600057.2602844) with the step of AdaGrad (Duchi, Hazan & Singer, JMLR 12, 2011): with n sessions in a
period the price takes about the square root of n of them to find its level, for ten as for ten thousand.

An attempt is spent when it begins, at the cost its decision expected; when its cost is told, a session later or a
thousand, what was expected is replaced. Policies that learn no cost (`uniform`, `always:`, `ladder:`, `vw:`) reserve
nothing and do not look at the price: what they spend is counted, but cannot be held to a budget.
"""

import math
import sys

import msgspec

from bandit.session import Session
from bandit.types import Objective

LARGEST_PRICE = 1000.0
"""Bound of the price: a budget that no arm keeps within must not take for ever to recover from."""

_LARGEST = math.log1p(LARGEST_PRICE)
_SMALLEST = -0.2
"""z may fall a little below 0, where the price is 0. Otherwise each dip would forgive some saving, and where the price
hovers about 0 spending would fall a per cent short of the budget."""
_COARSEST = 0.01
"""No step is coarser than this share of the budget: what keeps the first sessions from throwing the price about."""
_MICROSECONDS = 1e6


class Pace(msgspec.Struct, frozen=True, kw_only=True, omit_defaults=True):
    """How a router's spending stands against its budget.

    Periods are the multiples of their length since 1970, so that a day's budget is a UTC day's, and anybody can say
    when a period ends without knowing the router's history. A budget that is set in mid-period gets the share of it
    that the time left has of the period.
    """

    log_price: float = 0.0
    """z, the logarithm of 1 + price; below 0 the price is 0."""
    period_us: int = 0
    """Length of the periods, microseconds; 0 where there is no budget."""
    began_us: int = 0
    """When the running period began, or where the budget is younger, the budget: UTC microseconds since 1970."""
    ends_us: int = 0
    at_us: int = 0
    """What the clock said at the last event, held within the period."""
    spent_usd: float = 0.0
    """Dollars spent in the running period: what was told in it, and what attempts begun in it are expected to cost.

    A cost that is told in a later period than the attempt began in moves the later one: every dollar counts in
    exactly one period, and what went unnoticed then is made up for now.
    """
    scale_usd: float = 0.0
    """Root of the sum of the squares of what was spent, in this period and with half the weight in each one before."""

    def price(self, objective: Objective, now_us: int) -> float:
        """What a dollar costs beyond itself, in [0, LARGEST_PRICE]; 0 without a budget."""
        if objective.budget_usd is None:
            return 0.0
        return math.expm1(max(0.0, self._at(objective, now_us).log_price))

    def spent(self, objective: Objective, now_us: int) -> float | None:
        """Dollars spent in the period that runs; None without a budget."""
        return None if objective.budget_usd is None else self._at(objective, now_us).spent_usd

    def observe(self, objective: Objective, at_us: int, before: Session | None, after: Session) -> "Pace":
        """The pace after an event of a session, which `before` and `after` stand around (None: it had none).

        What does not change the session's spending changes nothing. Without a budget there is no pace to keep.
        """
        if objective.budget_usd is None:
            return NO_PACE
        spent_usd = after.spending() - (before.spending() if before is not None else 0.0)
        if spent_usd == 0.0:
            return self
        now = self._at(objective, at_us)
        # One cost, mistyped say, is not to make all later ones look like nothing.
        counted_usd = max(-objective.budget_usd, min(objective.budget_usd, spent_usd))
        scale_usd = math.hypot(now.scale_usd, counted_usd)
        rise = counted_usd / _step_usd(objective.budget_usd, scale_usd)
        if at_us < now.began_us:
            # The clock is waited for: no money is due either.
            rise = 0.0
        return msgspec.structs.replace(
            now,
            log_price=_bounded(now.log_price + rise),
            spent_usd=now.spent_usd + spent_usd,
            scale_usd=scale_usd,
        )

    def _at(self, objective: Objective, now_us: int) -> "Pace":
        """The pace when the clock says `now_us`.

        Clocks jump. Within a period the clock is followed. One that falls back into the period before is waited for, or
        that period's budget would be spent twice; one that falls further back was wrong before, and is followed.
        """
        assert objective.budget_usd is not None and objective.budget_period_seconds is not None
        period_us = max(1, round(objective.budget_period_seconds * _MICROSECONDS))
        if period_us != self.period_us or now_us < self.ends_us - 2 * period_us:
            return self._begin(period_us, now_us, now_us)
        if now_us < self.ends_us:
            return self._pass(objective.budget_usd, max(now_us, self.began_us))
        over = self._pass(objective.budget_usd, self.ends_us)
        following = over._begin(period_us, now_us - now_us % period_us, now_us)
        return following._pass(objective.budget_usd, now_us)

    def _begin(self, period_us: int, began_us: int, now_us: int) -> "Pace":
        """A period in which nothing is spent yet, at its beginning."""
        return Pace(
            log_price=self.log_price,
            period_us=period_us,
            began_us=began_us,
            ends_us=now_us - now_us % period_us + period_us,
            at_us=began_us,
            scale_usd=self.scale_usd / math.sqrt(2.0),
        )

    def _pass(self, budget_usd: float, now_us: int) -> "Pace":
        """Time passes within the period, and nothing is spent."""
        log_price = self.log_price
        if now_us > self.at_us:
            share = (self.ends_us - self.began_us) / self.period_us
            left_usd = max(0.0, share * budget_usd - self.spent_usd)
            due_usd = left_usd * (now_us - self.at_us) / (self.ends_us - self.at_us)
            log_price = _bounded(log_price - due_usd / _step_usd(budget_usd, self.scale_usd))
        return msgspec.structs.replace(self, log_price=log_price, at_us=now_us)


NO_PACE = Pace()
"""Before the first event under a budget."""


def _step_usd(budget_usd: float, scale_usd: float) -> float:
    """s: dollars too many that raise z by 1."""
    # The smallest of all budgets is not to divide by zero.
    return max(sys.float_info.min, math.hypot(_COARSEST * budget_usd, scale_usd))


def _bounded(log_price: float) -> float:
    return min(_LARGEST, max(_SMALLEST, log_price))
