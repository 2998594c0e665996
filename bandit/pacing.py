"""Budget pacing: a price on dollars that makes spending last as long as the period it is for.

Under a budget a decision maximises V x success - (1 + price) x cost. The price is a fold over a router's events, on a
logarithmic scale: with z = ln(1 + price), B what is left of the budget and T what is left of the period,

    z <- z + (spent - due) / s,   due = B dt / T,
    s^2 = ((budget / 100)^2 + sum of the squares of what was spent) x T / period, T / period being at least 0.02.

So it rises where money goes faster than the rest of the budget lasts, and falls where it goes slower. It is dual
gradient descent (Agrawal & Devanur, Bandits with concave rewards and convex knapsacks, EC 2014,
doi:10.1145/2600057.2602844) with the step of AdaGrad (Duchi, Hazan & Singer, JMLR 12, 2011): with n sessions left
of a period the price takes about the square root of n of them to find its level, for ten as for ten thousand.

An attempt is spent when it begins, at the cost its decision expected, times what such expectations have turned out to
be worth (told over foretold); when its cost is told, a session later or a thousand, what was expected is replaced.
Policies that learn no cost (`uniform`, `always:`, `ladder:`, `vw:`) reserve nothing and do not look at the price: what
they spend is counted, but cannot be held to a budget.
"""

import math
import sys

import msgspec

from bandit.session import Bill, Session
from bandit.types import Objective

LARGEST_PRICE = 1000.0
"""Bound of the price: a budget that no arm keeps within must not take for ever to recover from."""

_LARGEST = math.log1p(LARGEST_PRICE)
_SMALLEST = -0.5
"""z may fall somewhat below 0, where the price is 0. Otherwise each dip would forgive some saving, and where the price
hovers about 0 spending would fall a per cent short of the budget."""
_COARSEST = 0.01
"""No step is coarser than this share of the budget: what keeps the first sessions from throwing the price about."""
_LEAST_LEFT = 0.02
"""Nearer the end than this share of the period the price gets no quicker, or it would end anywhere."""
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
    told_usd: float = 0.0
    """Dollars told in the running period, of attempts begun in whichever.

    So a cost that is told in a later period than its attempt began in moves the later one: every dollar counts in
    exactly one period, and what went unnoticed then is made up for now.
    """
    open_usd: float = 0.0
    """What is expected of all attempts whose cost is not known yet."""
    carried_usd: float = 0.0
    """What of that was counted before the running period."""
    scale_usd: float = 0.0
    """Root of the sum of the squares of what was spent, in this period and with half the weight in each one before."""
    came_usd: float = 0.0
    """Sum of the costs that were told, with the same weights, …"""
    foretold_usd: float = 0.0
    """… and of what had been expected of those attempts."""

    def price(self, objective: Objective, now_us: int) -> float:
        """What a dollar costs beyond itself, in [0, LARGEST_PRICE]; 0 without a budget."""
        if objective.budget_usd is None:
            return 0.0
        return math.expm1(max(0.0, self._at(objective, now_us).log_price))

    def spent(self, objective: Objective, now_us: int) -> float | None:
        """Dollars spent in the period that runs; None without a budget."""
        if objective.budget_usd is None:
            return None
        return self._at(objective, now_us)._spent(objective.budget_usd)

    def observe(self, objective: Objective, at_us: int, before: Session | None, after: Session) -> "Pace":
        """The pace after an event of a session, which `before` and `after` stand around (None: it had none).

        What does not change the session's bill changes nothing. Without a budget there is no pace to keep.
        """
        if objective.budget_usd is None:
            return NO_PACE
        old, new = before.bill() if before is not None else _NO_BILL, after.bill()
        if old == new:
            return self
        # One cost, mistyped say, is not to make all others look like nothing.
        budget_usd = objective.budget_usd
        told_usd, foretold_usd = new.told_usd - old.told_usd, new.foretold_usd - old.foretold_usd
        came_usd = max(-budget_usd, min(budget_usd, told_usd)) if foretold_usd > 0.0 else 0.0
        now = self._at(objective, at_us)
        then = msgspec.structs.replace(
            now,
            told_usd=now.told_usd + told_usd,
            open_usd=now.open_usd + new.open_usd - old.open_usd,
            came_usd=now.came_usd + came_usd,
            foretold_usd=now.foretold_usd + max(0.0, foretold_usd),
        )
        spent_usd = then._spent(budget_usd) - now._spent(budget_usd)
        counted_usd = max(-budget_usd, min(budget_usd, spent_usd))
        scale_usd = math.hypot(now.scale_usd, counted_usd)
        rise = counted_usd / (_step_usd(budget_usd, scale_usd) * now._haste)
        if at_us < now.began_us:
            # The clock is waited for: no money is due either.
            rise = 0.0
        return msgspec.structs.replace(then, log_price=_bounded(now.log_price + rise), scale_usd=scale_usd)

    @property
    def _haste(self) -> float:
        """Root of the share of the period that is left: fewer sessions can make up for what was spent."""
        return math.sqrt(max(_LEAST_LEFT, (self.ends_us - self.at_us) / self.period_us))

    def _spent(self, budget_usd: float) -> float:
        """Dollars spent in the running period, what is open counted as such expectations have turned out so far."""
        return self.told_usd + self._open(budget_usd) - self.carried_usd

    def _open(self, budget_usd: float) -> float:
        doubt_usd = _step_usd(budget_usd, self.scale_usd)
        return self.open_usd * (self.came_usd + doubt_usd) / (self.foretold_usd + doubt_usd)

    def _at(self, objective: Objective, now_us: int) -> "Pace":
        """The pace when the clock says `now_us`.

        Clocks jump. Within a period the clock is followed. One that falls back into the period before is waited for, or
        that period's budget would be spent twice; one that falls further back was wrong before, and is followed.
        """
        assert objective.budget_usd is not None
        period_us = _period_us(objective)
        if period_us != self.period_us or now_us < self.ends_us - 2 * period_us:
            return self._begin(objective, now_us, now_us)
        if now_us < self.ends_us:
            return self._pass(objective.budget_usd, max(now_us, self.began_us))
        over = self._pass(objective.budget_usd, self.ends_us)
        following = over._begin(objective, now_us - now_us % period_us, now_us)
        return following._pass(objective.budget_usd, now_us)

    def _begin(self, objective: Objective, began_us: int, now_us: int) -> "Pace":
        """The period of `now_us`, in which nothing is spent yet, at its beginning."""
        assert objective.budget_usd is not None
        period_us = _period_us(objective)
        begun = Pace(
            log_price=self.log_price,
            period_us=period_us,
            began_us=began_us,
            ends_us=now_us - now_us % period_us + period_us,
            at_us=began_us,
            open_usd=self.open_usd,
            scale_usd=self.scale_usd / math.sqrt(2.0),
            came_usd=self.came_usd / 2.0,
            foretold_usd=self.foretold_usd / 2.0,
        )
        return msgspec.structs.replace(begun, carried_usd=begun._open(objective.budget_usd))

    def _pass(self, budget_usd: float, now_us: int) -> "Pace":
        """Time passes within the period, and nothing is spent."""
        log_price = self.log_price
        if now_us > self.at_us:
            share = (self.ends_us - self.began_us) / self.period_us
            left_usd = max(0.0, share * budget_usd - self._spent(budget_usd))
            due_usd = left_usd * (now_us - self.at_us) / (self.ends_us - self.at_us)
            log_price = _bounded(log_price - due_usd / (_step_usd(budget_usd, self.scale_usd) * self._haste))
        return msgspec.structs.replace(self, log_price=log_price, at_us=now_us)


NO_PACE = Pace()
"""Before the first event under a budget."""

_NO_BILL = Bill(0.0, 0.0, 0.0)


def _period_us(objective: Objective) -> int:
    assert objective.budget_period_seconds is not None, "there where there is a budget"
    return max(1, round(objective.budget_period_seconds * _MICROSECONDS))


def _step_usd(budget_usd: float, scale_usd: float) -> float:
    """Dollars too many that raise z by 1 when the whole period is left."""
    # The smallest of all budgets is not to divide by zero.
    return max(sys.float_info.min, math.hypot(_COARSEST * budget_usd, scale_usd))


def _bounded(log_price: float) -> float:
    return min(_LARGEST, max(_SMALLEST, log_price))
