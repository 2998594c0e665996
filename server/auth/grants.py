"""What may be granted to a caller."""

from enum import StrEnum

import msgspec


class Scope(StrEnum):
    """A kind of right. None holds another."""

    ROUTE = "route"
    """Asks which arm takes a session, leaves attempts, reports progress."""
    REWARD = "reward"
    """Tells outcomes."""
    ADMIN = "admin"
    """Changes routers, arms and policies, takes events in, erases."""
    READ = "read"
    """Reads sessions, decisions, settings and the log."""


class Grant(msgspec.Struct, frozen=True, kw_only=True):
    """What somebody may do."""

    scopes: frozenset[Scope]
    routers: frozenset[str] | None = None
    """None: all of them, and those that are yet to be made."""
    sessions_per_second: float | None = None
    """How many sessions may be begun; None: as many as `limits.sessions_per_second` says."""

    def allows(self, scope: Scope, router: str | None) -> bool:
        """Whether that is granted on a router; None asks for all routers at once."""
        return scope in self.scopes and (self.routers is None or (router is not None and router in self.routers))


EVERYTHING = Grant(scopes=frozenset(Scope))
